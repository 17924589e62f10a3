"""Pictures of a series of checkpoints, from its tables alone."""
