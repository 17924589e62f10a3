"""The part of a page on estimated patches.

The figures are drawn elsewhere; here they get their names, captions and alternative texts.
"""

from __future__ import annotations

from functools import partial

from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import (
    in_order,
    number,
    spread,
)
from layerwise.storage.run_tables import RunTables

_ESTIMATE_WORDS = (
    "A gradient predicts what every patch would do, at the price of a few forwards. Some patches "
    "were truly made, to see how far that can be trusted."
)


def estimates(run: RunTables) -> list[FigureSpec]:
    """Estimated against true patches, a figure for each direction."""
    from .figures.estimates import estimate_agreement

    estimates = run.table("attribution_cells")
    agreement = run.table("attribution_agreement")
    if estimates is None or agreement is None:
        return []
    found = []
    for direction in in_order(agreement["direction"], ()):
        cells, told = (rows(t, direction=direction) for t in (estimates, agreement))
        caption = (
            f"Attribution patching ({direction}): the change of the logit difference that a "
            "gradient predicts for a patch, against that of the true patch, for cells drawn at "
            f"random (means over n = {spread(told['n_items'])} pairs). Dashed: equal. The rank "
            "correlations' intervals are in the table below."
        )
        alt = "Scatter plots of estimated against true changes, one per task and site."
        draw = partial(estimate_agreement, cells, told)
        found.append(FigureSpec(f"estimates_{direction}", draw, caption, alt))
    return found


def agreement_shown(run: RunTables) -> list[Table]:
    """How gradient estimates agree with true patches."""
    agreement = run.table("attribution_agreement")
    if agreement is None:
        return []
    columns = (
        "task", "direction", "site", "cells", "pairs", "rank correlation", "median error (nats)",
    )  # fmt: skip
    cells = [
        [
            row["task"], row["direction"], row["site"], str(row["n_cells"]), str(row["n_items"]),
            bounds(row, "spearman", "spearman_low", "spearman_high", 1, 2),
            number(row["median_error"], 3),
        ]
        for row in records(agreement)
    ]  # fmt: skip
    return [Table("Agreement of estimates and true patches", columns, cells)]


def sections(run: RunTables) -> list[Section]:
    """Estimated against true patches, and their agreement in numbers."""
    return [
        Section("estimates", "Estimated patches", 44, _ESTIMATE_WORDS,
                tuple(estimates(run)), tuple(agreement_shown(run))),
    ]  # fmt: skip
