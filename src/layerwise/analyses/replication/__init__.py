"""Replication of published claims about layers: the claims, their tests, the verdicts."""

# Public names of the package by the module that has them.
PUBLIC = {"api": ("replicate",), "result": ("ReplicationResult",)}
COMMANDS = {"replicate": "api:replicate"}
