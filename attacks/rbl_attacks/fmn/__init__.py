"""The Fast Minimum-Norm attack."""
