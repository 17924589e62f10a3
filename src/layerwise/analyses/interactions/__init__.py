"""Layers or heads removed alone, in pairs and in sampled sets: what they cost beyond their sum."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("interactions",), "result": ("InteractionsResult",)}
COMMANDS = {"interactions": "api:interactions"}
