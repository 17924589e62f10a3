"""Storage of every result: typed tables as Parquet, the facts of a run, files written whole."""
