"""Files: written whole or not at all, and read with bounds.

Every fault of a file that came from elsewhere is told in one way.
"""
