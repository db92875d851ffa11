"""The one trainer, its checkpoint, and the card that says what came of it."""
