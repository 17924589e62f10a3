"""Curves over layers, depths, and when they move."""
