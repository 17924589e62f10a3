"""The analyses, and what joins their results."""
