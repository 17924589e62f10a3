"""Training of the models whose answer is known.

Their languages, and those that are wired by hand, are in ``layerwise.models.organisms``.
"""
