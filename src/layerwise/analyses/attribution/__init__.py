"""Direct logit attribution: exact sums of what each part writes."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("attribution",), "result": ("AttributionResult",)}
COMMANDS = {"attribution": "api:attribution"}
