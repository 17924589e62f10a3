"""Whether published claims about layers hold for a model: the claims, their tests, the verdicts."""

# Public names of the package by the module that has them.
PUBLIC = {"api": ("replicate",), "result": ("ReplicationResult",)}
COMMANDS = {"replicate": "api:replicate"}
