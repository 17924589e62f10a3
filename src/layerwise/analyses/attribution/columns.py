"""What the table of contributions says of each, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import (
    Column,
    Row,
    decided,
    estimated,
    named,
    p_column,
    plain,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.wording import HEAD_WORDS, SUBLAYER_WORDS

from .tables import HEADS


def _part(row: Row) -> str:
    place = name_layer(row["layer"]) + (f".{row['head']}" if row["component"] in HEADS else "")
    return f"{(SUBLAYER_WORDS | HEAD_WORDS)[row['component']]} {place}"


CONTRIBUTIONS = (
    *plain("task", "protocol"),
    Column("part", _part),
    named("n", "n_items"),
    estimated("adds (nats)", "value", "", 1, 2),
    p_column("p (corrected)", "p_adjusted"),
    decided("significant", "significant"),
)
