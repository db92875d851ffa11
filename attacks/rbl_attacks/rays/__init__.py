"""RayS."""
