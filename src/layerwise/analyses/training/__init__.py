"""Checkpoints of one model: when each capability appears, in which layers, and whether it moves."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("compare_series", "profile_training"), "report": ("TrainingSeries",)}
COMMANDS = {"profile-training": "api:profile_training"}
