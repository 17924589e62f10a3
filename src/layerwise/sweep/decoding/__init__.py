"""Greedy decoding of all branches and prompts as rows of one batch."""
