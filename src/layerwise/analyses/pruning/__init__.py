"""A model written without some layers, and held to its prediction."""
