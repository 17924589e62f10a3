"""Training of a student: examples, batches, losses, the loop and its memory."""
