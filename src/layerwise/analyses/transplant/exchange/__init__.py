"""Exchange of weights between two models: which layers and parts, and how."""
