"""Square Attack."""
