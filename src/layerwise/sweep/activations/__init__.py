"""Activations of the intact model, read from the trunk of a walk."""
