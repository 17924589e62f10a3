"""A lens with a trained translator for each depth."""
