"""Sequential decisions: tests and intervals that hold whenever one stops asking items."""
