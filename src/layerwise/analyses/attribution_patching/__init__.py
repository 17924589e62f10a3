"""Gradient estimates of activation patches, with true patches of a sample."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("attribute_patches",), "result": ("AttributionPatchingResult",)}
COMMANDS = {"attribution-patch": "api:attribute_patches"}
