"""Rank and log-probability of tokens at each layer, read through the unembedding."""
