"""Corrections and intervals over all tests of a run, and means over items with bounds."""
