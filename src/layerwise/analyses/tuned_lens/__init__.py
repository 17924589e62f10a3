"""A lens with a trained translator for each depth."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("train_lens",)}
COMMANDS = {"train-lens": "api:train_lens"}
