"""What the table of depths says of each, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import Column, Row, estimated, named, plain
from layerwise.presentation.wording import layer_ranges


def _critical(row: Row) -> str:
    return layer_ranges(row["layers"]) if isinstance(row["layers"], list) else "–"


DEPTHS = (
    *plain("capability", "protocol", "method", "measure", "axis"),
    estimated("relative depth or share", "estimate", "", 1, 2),
    estimated("in layers", "layer", "layer_", 1, 1),
    Column("critical layers", _critical),
    named("n", "n_items"),
    *plain("tasks"),
)
