"""What the table of a written model says of each task, on a page and in a notebook."""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.columns import Column, Row, named, numbered, plain
from layerwise.presentation.wording import number


def _difference(row: Row) -> str:
    gap = row["largest_difference"]
    return "–" if pd.isna(gap) else f"{gap:.1g}"


def _same(row: Row) -> str:
    return "–" if pd.isna(row["same_texts"]) else number(100 * row["same_texts"])


WRITTEN = (
    *plain("task", "protocol"),
    named("n", "n_items"),
    numbered("accuracy (%): intact", "intact_accuracy", 100),
    numbered("predicted", "predicted_accuracy", 100),
    numbered("measured", "measured_accuracy", 100),
    Column("largest difference (nats)", _difference),
    Column("same texts (%)", _same),
)
