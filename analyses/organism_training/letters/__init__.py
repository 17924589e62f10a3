"""Training of the organisms that also choose by letter."""
