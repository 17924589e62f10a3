"""A model written without some layers, and held to its prediction."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("prune_model",), "result": ("PruningResult",)}
COMMANDS = {"prune": "api:prune_model"}
