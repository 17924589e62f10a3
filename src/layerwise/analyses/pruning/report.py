"""The part of a page on a model that was written without some layers."""

from __future__ import annotations

from layerwise.presentation.columns import cells, heads
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table
from layerwise.storage.run_tables import RunTables

from .columns import WRITTEN

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
    shown = cells(WRITTEN, pruning)
    return [Table("Written model, and prediction by skipping its layers", heads(WRITTEN), shown)]


def sections(run: RunTables) -> list[Section]:
    """A written model beside what was predicted of it."""
    return [
        Section("pruned", "Written without layers", 80, _PRUNED_WORDS, (),
                tuple(pruning_table(run))),
    ]  # fmt: skip
