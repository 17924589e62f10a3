"""What the tables of similarity say of each row, on a page and in a notebook."""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.columns import (
    LAYER,
    Column,
    Row,
    estimated,
    named,
    p_column,
    plain,
)


def _of_stack(row: Row) -> str:
    """How many layers a row is about, and of which stack if of one alone."""
    return str(row["n_layers"]) + ("" if pd.isna(row["stack"]) else f" ({row['stack']})")


INFLUENCE = (
    *plain("task", "protocol"),
    LAYER,
    named("n", "n_items"),
    estimated("block influence", "influence", "", 1, 3),
)
PREDICTION = (
    *plain("capability", "protocol"),
    named("measure", "predictor"),
    *plain("effect"),
    Column("layers", _of_stack),
    named("n", "n_items"),
    estimated("rank correlation", "rho", "", 1, 2),
    p_column("p (Holm)", "p_holm"),
)
