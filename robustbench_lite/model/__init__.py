"""A network behind its defense, and how it is asked."""
