"""Layers of one model put into another of its architecture: the share of the gap that moves."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("transplant",), "result": ("TransplantResult",)}
COMMANDS = {"transplant": "api:transplant"}
