"""HopSkipJump."""
