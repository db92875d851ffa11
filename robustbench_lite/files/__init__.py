"""Files: written whole or not at all, read with bounds, and every fault of a file that came from
elsewhere told in one way.
"""
