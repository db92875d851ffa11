"""A network as a program that follows such windows, and runs the rest whole."""
