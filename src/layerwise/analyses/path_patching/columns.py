"""What the table of direct paths says of each, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import estimated, named, p_column, plain

PATHS = (
    *plain("task", "direction", "sender", "receiver"),
    named("pairs", "n_items"),
    estimated("share (%)", "recovered", "recovered_", 100),
    p_column("p (BH)", "p_bh"),
)
