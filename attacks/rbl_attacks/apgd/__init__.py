"""Auto-PGD."""
