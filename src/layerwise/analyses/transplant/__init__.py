"""Layers of one model put into another of its architecture: which of them bring what it can do."""
