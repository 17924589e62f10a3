"""What a sweep changes: interventions, and the edits within layers that they are made of."""
