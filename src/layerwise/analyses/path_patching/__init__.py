"""Patches of single paths between components, all else frozen."""
