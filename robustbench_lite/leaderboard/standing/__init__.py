"""From records to what a board says: worst cases, ranks, flags."""
