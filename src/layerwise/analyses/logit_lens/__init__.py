"""What each layer would answer, read through the unembedding."""
