"""A student trained to say what a teacher says, and what it can do before and after."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("distill", "heal"), "result": ("DistillationResult",)}
COMMANDS = {"distill": "api:distill", "heal": "api:heal"}
