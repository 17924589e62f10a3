"""The removal of layers: its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

from layerwise.analyses.contract import Analysis
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import in_order, number, spread
from layerwise.storage.run_tables import RunTables

from .findings import HOW, REMOVAL, removals, several_orders
from .result import RemovalResult

_REMOVAL_WORDS = (
    "Several layers left out at once: each step tried all that were left, and removed what cost "
    "least. Read the held-out items; the best of many tries looks better than it is on the items "
    "that it was chosen by."
)


def _figures(run: RunTables) -> list[FigureSpec]:
    """The accuracy that is left as layers are removed."""
    from .figures import removal_curve

    removal = run.table("removal_steps")
    if removal is None:
        return []
    if several_orders(run):
        return _orders(run)
    first = removal.iloc[0]
    way = HOW[str(first["by"])]
    counts = [
        f"{split} items: n = {spread(rows(removal, split=split)['n_items'])}"
        for split in in_order(removal["split"], ())
    ]
    caption = (
        f"Accuracy under {first['protocol']} as layers are removed {way}; what each step removed "
        f"stands along the upper edge ({', '.join(counts)}). The choice was made on the selection "
        "items, so their line is too good; held-out items were not seen by the search. Dotted: the "
        "intact model. Dashed: floor, the accuracy without any layer (stated chance where it was "
        "not measured). Bands: paired bootstrap 95 % interval of the loss."
    )
    alt = "Line charts of accuracy against the number of layers removed, one chart per task."
    return [FigureSpec("removal", partial(removal_curve, removal), caption, alt)]


def _orders(run: RunTables) -> list[FigureSpec]:
    """All orders under all protocols in one figure."""
    from .figures import removal_orders

    removal_curves = run.table("removal_curves")
    if removal_curves is None:
        return []
    caption = (
        "What is left of the accuracy above the floor as layers are removed in different orders, "
        "by capability and protocol: 100 % is the intact model, 0 % the floor (the accuracy "
        "without any layer; stated chance where it was not measured); mean over the "
        f"capability's tasks with signal (n = {spread(removal_curves['n_items'])} held-out "
        "items, which no order was made from). Bands: paired bootstrap 95 % interval. Filled: "
        "significant loss after Holm's correction over the steps (exact McNemar test, p < 0.05)."
    )
    alt = "Line charts of accuracy left against layers removed, one chart per capability, protocol."
    draw = partial(removal_orders, removal_curves)
    return [FigureSpec("removal_orders", draw, caption, alt)]


def removal_table(run: RunTables) -> list[Table]:
    """What each step of a removal left out, and what that cost."""
    removal = run.table("removal_steps")
    if removal is None:
        return []
    columns = (
        "order", "task", "protocol", "items", "n", "layers removed", "which", "accuracy (%)",
        "change (points)", "p (Holm)", "significant",
    )  # fmt: skip
    cells = [
        [
            *(row[name] for name in ("by", "task", "protocol", "split")),
            str(row["n_items"]), str(row["step"]),
            ", ".join(map(name_layer, row["layers"])),
            f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}",
            bounds(row, "acc_diff", "acc_diff_low", "acc_diff_high", -100),
            f"{row['p_holm']:.3g}", "yes" if row["significant"] else "no",
        ]
        for row in records(removal)
    ]  # fmt: skip
    return [Table(f"Steps of the removal ({len(cells)})", columns, cells, True)]


def sections(run: RunTables) -> list[Section]:
    """Accuracy by layers removed, and the steps in numbers."""
    return [
        Section("removal", "Removal of layers", 75, _REMOVAL_WORDS,
                tuple(_figures(run)), tuple(removal_table(run)), kinds=(REMOVAL,)),
    ]  # fmt: skip


ANALYSIS = Analysis("removal", RemovalResult, sections, removals)
