"""The Fast Adaptive Boundary attack."""
