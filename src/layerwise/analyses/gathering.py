"""The tables of one run, gathered from its results as each analysis hands them in."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.storage.base import Result
from layerwise.storage.provenance import join_facts
from layerwise.storage.run_tables import RunTables

from .ablation.joining import join_ablations
from .registry import ANALYSES


def tables_of_run(results: Sequence[Result]) -> RunTables:
    """The tables of the results of one run."""
    joined = join_ablations(results)
    tables: dict[str, pd.DataFrame] = {}
    files: dict[str, str] = {}
    for result in joined:
        for analysis in ANALYSES:
            if isinstance(result, analysis.result):
                tables |= analysis.tables(result, joined)
                files |= analysis.files
    return RunTables(join_facts([result.facts for result in joined]), tables, files)
