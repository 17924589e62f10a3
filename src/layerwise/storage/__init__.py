"""What every result can do: typed tables as Parquet, the facts of a run, files written whole."""
