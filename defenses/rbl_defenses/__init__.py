"""The built-in defenses: one file each; see defenses/README.md for the catalogue."""
