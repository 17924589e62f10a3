"""Claims, part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerwise.analyses.contract import Analysis, reads_prompts
from layerwise.presentation.claim import IN_TABLE, Claim, source
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.rows import records
from layerwise.presentation.section import Section
from layerwise.storage.run_tables import RunTables

from .result import COLUMNS, CertaintyResult

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

    from .api import Certainty

_LAYERS = "certainty_layers"


def findings(run: RunTables) -> list[Claim]:
    """The layer after which the lens is surest."""
    table = run.table(_LAYERS)
    if table is None:
        return []
    (row,) = records(table.nsmallest(1, "entropy"))
    where = {name: str(row[name]) for name in ("task", "protocol")}
    return [
        Claim(
            kind="certainty", evidence=IN_TABLE, layers=(max(int(row["layer"]), 0),),
            short=f"In {row['task']}, the lens is surest after layer {row['layer']}.",
            source=source(_LAYERS, where, layer=int(row["layer"])),
        )
    ]  # fmt: skip


def sections(run: RunTables) -> list[Section]:
    """The entropy after each layer, as a table."""
    tables = run_table_as_text(run, _LAYERS, "Certainty ({n})", COLUMNS)
    return [Section("certainty", "Certainty", 90, tables=tuple(tables), kinds=("certainty",))]


def _job(setup: Setup, of_profile: bool) -> Certainty:
    from .api import Certainty, Lens

    return Certainty(Lens(setup, strict=not of_profile), shared=of_profile)


_PLANS, _EXTRAS = reads_prompts("certainty", "how sure the lens is after each layer", _job)
ANALYSIS = Analysis("certainty", CertaintyResult, sections, findings, plans=_PLANS, extras=_EXTRAS)
