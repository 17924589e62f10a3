"""A model in memory: its kind, source, facts, structure, generation settings and lock."""
