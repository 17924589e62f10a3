"""Layers decided one by one: as many items as each verdict takes, and no more."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("decide",), "result": ("DecisionsResult",)}
COMMANDS = {"decide": "api:decide"}
