"""Claims that the tables of an ablation earn."""
