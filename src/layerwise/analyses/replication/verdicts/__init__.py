"""Verdicts on published claims: the claim as a value, its evidence, its tests."""
