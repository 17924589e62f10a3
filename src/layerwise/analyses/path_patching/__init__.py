"""Patches of single paths between components, all else frozen."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("patch_paths",), "result": ("PathPatchingResult",)}
COMMANDS = {"path-patch": "api:patch_paths"}
