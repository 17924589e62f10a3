"""Likelihood of running text without each layer, and with neighbouring layers swapped."""

# Public names of the package by the module that has them, and functions that are commands.
PUBLIC = {"api": ("text_loss",), "result": ("TextLossResult",)}
COMMANDS = {"text-loss": "api:text_loss"}
