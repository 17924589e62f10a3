"""Training of the organisms that also choose by letter.

Which layer is to do what is told in ``layerwise.models.organisms.lettered``.
"""
