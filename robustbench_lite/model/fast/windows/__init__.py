"""A change of one pixel, carried through layers as a small window."""
