"""Changes of a sweep: interventions, and the edits within layers that they are made of."""
