"""Suites of attacks, from a quick look to the worst case that a reader can rely on."""
