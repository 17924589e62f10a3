"""Under each sentence of a run's page, the rows that it stands on, with the name of their file."""

from __future__ import annotations

from dataclasses import replace

from layerwise.presentation.claim import Claim
from layerwise.presentation.evidence import evidence
from layerwise.presentation.section import Table
from layerwise.storage.run_tables import RunTables


def evidence_of(run: RunTables, finding: Claim) -> Table:
    """The rows that a sentence about a run stands on."""
    name = finding.source["table"]
    table = run.table(name)
    assert table is not None, f"a sentence without its table: {finding.full}"
    shown = evidence(finding, table, run.file(name))
    if not run.facts.model.n_encoder_layers:
        return shown
    return replace(shown, note=f"{shown.note} Layers are counted from the encoder's first.")
