"""The same numbers in less time: this folder may be deleted, and no verdict changes."""
