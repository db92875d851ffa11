"""Cells that are missing are measured, and samples of those that are there once more."""
