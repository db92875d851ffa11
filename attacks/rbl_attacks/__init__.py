"""The built-in attacks: one file each; see attacks/README.md for the catalogue."""
