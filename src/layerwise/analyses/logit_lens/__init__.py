"""Rank and log-probability of tokens at each layer, read through the unembedding."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("logit_lens",), "result": ("LensResult",)}
COMMANDS = {"lens": "api:logit_lens"}
