"""A model in memory: its kind, facts, structure, files and lock."""
