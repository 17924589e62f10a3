"""The engine for encoder-decoder models: one walk through both stacks, trunk and branches.

Layers are numbered in the order of computation. Nothing here knows what a task means.
"""
