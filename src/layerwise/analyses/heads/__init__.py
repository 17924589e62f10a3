"""Scores of attention heads on repeated random tokens."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("head_scores",), "result": ("HeadsResult",)}
COMMANDS = {"heads": "api:head_scores"}
