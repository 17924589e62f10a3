"""Under each sentence of a run's page, the rows that it stands on, with the name of their file."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from layerwise.presentation.evidence import evidence
from layerwise.presentation.finding import Finding
from layerwise.presentation.table import Table
from layerwise.report.run import Run

# Where sources name a table by another name than its file's.
_FILES = {
    "agreement": "attribution_agreement.parquet",
    "paths": "path_effects.parquet",
    "patching": "patching.parquet, averaged over pairs",
}
_OF_RUN = {"attribution_summary": "attribution", "removal_steps": "removal"}


def evidence_of(run: Run, finding: Finding) -> Table:
    """The rows that a sentence about a run stands on."""
    name = finding.source["table"]
    shown = evidence(finding, _table(run, name), _FILES.get(name, f"{name}.parquet"))
    if not run.facts.model.n_encoder_layers:
        return shown
    return replace(shown, note=f"{shown.note} Layers are counted from the encoder's first.")


def _table(run: Run, name: str) -> pd.DataFrame:
    if name == "effects":  # of layers and of heads, which are in one file
        parts = [table for table in (run.effects, run.head_effects) if table is not None]
        return parts[0] if len(parts) == 1 else pd.concat(parts)
    table = getattr(run, _OF_RUN.get(name, name))
    assert isinstance(table, pd.DataFrame), name
    return table
