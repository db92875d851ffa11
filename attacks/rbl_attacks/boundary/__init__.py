"""The Boundary attack."""
