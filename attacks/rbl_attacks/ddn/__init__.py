"""The Decoupled Direction and Norm attack."""
