"""What the tables of a transplant say of each row, on a page and in a notebook."""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.columns import (
    Column,
    Row,
    decided,
    estimated,
    named,
    numbered,
    p_column,
    plain,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.wording import number

from .names import WEIGHTS
from .naming import order_of, place_of, set_of

_SETS = {
    "single": "alone",
    "together": "together",
    "from_first": "from the first on",
    "from_last": "from the last on",
}


def _which(row: Row) -> str:
    """The layers of a change, and how they were chosen."""
    how = "" if row["set"] == "single" else f" ({_SETS[row['set']]})"
    part = "" if row["site"] == "layer" else f" {row['site']}"
    step = "" if row["t"] == 1 else f", t = {number(row['t'], 2)}"
    step += "" if row["exchange"] == WEIGHTS else " (activations)"
    return f"{set_of(row)}{part}{how}{step}".lstrip()


def _place(row: Row) -> str:
    if pd.isna(row["layer"]):
        return "–"
    return place_of(row) if not pd.isna(row["head"]) else name_layer(row["layer"])


EFFECTS = (
    *plain("task", "protocol"),
    Column("layers", _which),
    named("put into", "host"),
    *plain("direction"),
    named("n", "n_items"),
    numbered("accuracy (%)", "acc", 100),
    estimated("moved (points)", "moved", "moved_", 100),
    estimated("share of the gap (%)", "share", "share_", 100),
    estimated("moved (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    p_column("p (run)", "p_run"),
)
GREEDY = (
    *plain("task", "protocol"),
    named("put into", "host"),
    *plain("direction", "step"),
    Column("layers, as they were chosen", lambda row: order_of(row)),
    named("of", "n_candidates"),
    numbered("moved on what it was chosen by (points)", "moved_selection", 100),
    named("n held out", "n_items"),
    estimated("moved on held-out items (points)", "moved", "moved_", 100),
    estimated("share of the gap (%)", "share", "share_", 100),
    p_column("p (Holm, steps of the run)", "p_run"),
)
GAPS = (
    *plain("task", "protocol"),
    named("n", "n_items"),
    numbered("base (%)", "acc_base", 100),
    numbered("other (%)", "acc_other", 100),
    *plain("better"),
    estimated("lead (points)", "gap", "gap_", 100),
    estimated("lead (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    decided("a gap to move", "found"),
)
DISTANCES = (
    named("part", "site"),
    Column("layer", _place),
    named("weight", "part"),
    named("parameters", "n_parameters"),
    Column("distance", lambda row: number(row["distance"], 4)),
)
RANKS = (
    *plain("task", "protocol"),
    named("put into", "host"),
    *plain("direction"),
    named("layers", "n_layers"),
    named("n", "n_items"),
    estimated("rank correlation of distance and points moved", "rho", "rho_", 1, 2),
    Column("p", lambda row: "–" if pd.isna(row["rho_p"]) else f"{row['rho_p']:.3g}"),
)
