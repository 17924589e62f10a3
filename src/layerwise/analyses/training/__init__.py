"""Checkpoints of one model: when each capability appears, in which layers, and whether it moves."""
