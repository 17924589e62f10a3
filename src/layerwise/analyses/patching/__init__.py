"""Activations of one run put into another, cell by cell."""
