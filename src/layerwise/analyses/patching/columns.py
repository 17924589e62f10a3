"""What the table of patched cells says of each, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import LAYER, estimated, named, p_column, plain

CELLS = (
    *plain("task", "direction", "site"),
    LAYER,
    *plain("head"),
    named("position", "pos_label"),
    named("pairs", "n_items"),
    estimated("recovered or lost (%)", "recovered", "recovered_", 100),
    p_column("p (BH)", "p_bh"),
)
