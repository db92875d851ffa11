"""The ZOO attack."""
