"""One runner for every analysis: set-up, pieces that can be resumed, the run's folder, progress."""
