"""Small sets of heads removed at once, beside random sets of the same size."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("head_sets",), "result": ("HeadSetsResult",)}
COMMANDS = {"head-sets": "api:head_sets"}
