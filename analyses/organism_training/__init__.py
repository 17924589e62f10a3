"""Training of the models whose answer is known."""
