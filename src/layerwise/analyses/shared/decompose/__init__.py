"""Direct paths from the parts of a model to its logits, exactly."""
