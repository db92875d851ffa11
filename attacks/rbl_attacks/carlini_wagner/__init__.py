"""The Carlini-Wagner attack."""
