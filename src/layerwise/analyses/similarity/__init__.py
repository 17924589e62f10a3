"""Similarity of residual streams before and after layers."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("similarity",), "result": ("SimilarityResult",)}
COMMANDS = {"similarity": "api:similarity"}
