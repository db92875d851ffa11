"""The sigma-zero attack."""
