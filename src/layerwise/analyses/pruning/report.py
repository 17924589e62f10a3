"""The part of a page on a model that was written without some layers."""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.rows import records
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table
from layerwise.presentation.wording import (
    number,
)
from layerwise.storage.run_tables import RunTables

_PRUNED_WORDS = (
    "A model that was written without some layers, loaded again, and put to the same questions as "
    "the intact model and the intact model that skips these layers. The last two are to agree."
)
_MODELS = ("intact", "predicted", "measured")


def pruning_table(run: RunTables) -> list[Table]:
    """A written model beside what was predicted of it."""
    pruning = run.table("pruning_summary")
    if pruning is None:
        return []
    columns = (
        "task", "protocol", "n", "accuracy (%): intact", "predicted", "measured",
        "largest difference (nats)", "same texts (%)",
    )  # fmt: skip
    cells = [
        [
            row["task"], row["protocol"], str(row["n_items"]),
            *(number(100 * row[f"{model}_accuracy"]) for model in _MODELS),
            "–" if pd.isna(row["largest_difference"]) else f"{row['largest_difference']:.1g}",
            "–" if pd.isna(row["same_texts"]) else number(100 * row["same_texts"]),
        ]
        for row in records(pruning)
    ]  # fmt: skip
    return [Table("Written model, and prediction by skipping its layers", columns, cells)]


def sections(run: RunTables) -> list[Section]:
    """A written model beside what was predicted of it."""
    return [
        Section("pruned", "Written without layers", 80, _PRUNED_WORDS, (),
                tuple(pruning_table(run))),
    ]  # fmt: skip
