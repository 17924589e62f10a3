"""What every result can do: typed tables as Parquet, the facts of a run, files written whole.

The types of results, with their public names, are in ``layerwise.results``.
"""
