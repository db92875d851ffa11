"""Saved adversarial examples, examined again by whoever has the model."""
