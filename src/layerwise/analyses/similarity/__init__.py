"""How alike residual streams before and after layers are."""
