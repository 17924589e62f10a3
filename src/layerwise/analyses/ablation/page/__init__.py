"""Pictures, columns and parts of the page of an ablation, from its tables alone."""
