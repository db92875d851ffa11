"""The adversarial patch."""
