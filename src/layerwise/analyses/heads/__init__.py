"""Scores of attention heads on repeated random tokens."""
