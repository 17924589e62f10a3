"""One runner for every analysis: set-up, resumable pieces, the run's folder, progress.

A piece is a unit of work whose result is saved at once. An analysis says which pieces it has.
"""
