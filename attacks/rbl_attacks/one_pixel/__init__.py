"""The one-pixel attack."""
