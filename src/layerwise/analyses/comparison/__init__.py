"""Saved runs compared: role maps, depths, tests of differences."""

# Public names of the package by the module that has them.
PUBLIC = {"api": ("Comparison", "compare"), "harness_logs": ("compare_logs",)}
