"""Corrections and intervals over all tests of a run."""
