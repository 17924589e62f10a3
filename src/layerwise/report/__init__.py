"""The report: figures, sentences and one HTML page from saved tables.

Nothing here runs a model.
"""
