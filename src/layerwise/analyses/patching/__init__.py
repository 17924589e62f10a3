"""Activations of one run put into another, cell by cell."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("patch_activations",), "result": ("PatchingResult",)}
COMMANDS = {"patch": "api:patch_activations"}
