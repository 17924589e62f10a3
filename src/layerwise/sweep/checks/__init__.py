"""Checks of the engine: a reference by plain hooks, the rounding error, a test of each model."""
