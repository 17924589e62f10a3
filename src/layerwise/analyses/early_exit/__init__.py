"""From which layer on the model could stop and give its answer, and at what loss."""
