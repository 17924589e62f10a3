"""Orders in which layers can be removed."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("removal_order",), "result": ("RemovalResult",)}
COMMANDS = {"remove": "api:removal_order"}
