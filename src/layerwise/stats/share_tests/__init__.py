"""Shares lost: bounds, equality, equivalence to none, and scores in several steps."""
