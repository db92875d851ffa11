"""Feature squeezing."""
