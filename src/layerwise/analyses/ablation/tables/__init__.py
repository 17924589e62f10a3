"""Tables that follow from an ablation's records and questions."""
