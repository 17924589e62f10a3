"""What the table of agreement says of each site, on a page and in a notebook."""

from __future__ import annotations

from layerwise.presentation.columns import estimated, named, numbered, plain

AGREEMENT = (
    *plain("task", "direction", "site"),
    named("cells", "n_cells"),
    named("pairs", "n_items"),
    estimated("rank correlation", "spearman", "spearman_", 1, 2),
    numbered("median error (nats)", "median_error", digits=3),
)
