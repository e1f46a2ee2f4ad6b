"""The drawing page: every trained model answers to what a person draws."""
