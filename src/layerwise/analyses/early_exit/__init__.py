"""From which layer on the model could stop and give its answer, and at what loss."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("early_exit",), "result": ("EarlyExitResult",)}
COMMANDS = {"early-exit": "api:early_exit"}
