"""Parts of a model changed in every way, and what answers cost."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("ablate", "score"), "result": ("AblationResult", "items")}
COMMANDS = {"ablate": "api:ablate", "score": "api:score"}
