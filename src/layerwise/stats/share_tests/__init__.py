"""Tests and bounds of the share lost: the part of a score above its floor that a change costs.

Shares are bounded, compared between ways of scoring, and tested for being too small to matter.
"""
