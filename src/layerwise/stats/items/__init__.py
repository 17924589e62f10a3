"""Items as samples: clusters of items, draws of few-shot examples, groups of models."""
