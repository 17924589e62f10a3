"""Depths, tests of order, and what methods and protocols agree on, as rows of text for a page.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

import pandas as pd

from layerwise.presentation.columns import cells, heads
from layerwise.presentation.rows import numbers, records
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import (
    layer_ranges,
)
from layerwise.storage.run_tables import RunTables

from .columns import DEPTHS


def emergence_tables(run: RunTables) -> list[Table]:
    """Depths, tests of order, and what was left out."""
    emergence = run.table("emergence")
    shown = [] if emergence is None else cells(DEPTHS, emergence)
    title = f"Depths and critical sets ({len(shown)})"
    found = [Table(title, heads(DEPTHS), shown, True)]
    return [*(found if shown else []), *_order(run), *_left_out(run)]


def _order(run: RunTables) -> list[Table]:
    order = run.table("order")
    if order is None:
        return []
    columns = (
        "first", "second", "protocol", "method", "measure", "depth of second minus first",
        "p (Holm)",
    )  # fmt: skip
    ranked = order.iloc[numbers(order, "p_holm").argsort(kind="stable")]
    cells = [
        [
            row["first"], row["second"], row["protocol"], row["method"], row["measure"],
            bounds(row, "difference", "low", "high", 1, 2), f"{row['p_holm']:.3g}",
        ]
        for row in records(ranked)
    ]  # fmt: skip
    return [Table(f"Tests of order ({len(cells)})", columns, cells, True)]


def _left_out(run: RunTables) -> list[Table]:
    left_out = run.table("left_out")
    if left_out is None:
        return []
    names = ("capability", "task", "protocol", "method", "axis", "reason")
    cells = [
        [str(row[name]) if not pd.isna(row[name]) else "–" for name in names]
        for row in records(left_out)
    ]
    return [Table("Left out of the depths, and why", names, cells)]


def interaction_tables(run: RunTables) -> list[Table]:
    """The same in numbers."""
    protocol_interaction = run.table("protocol_interaction")
    if protocol_interaction is None:
        return []
    columns = (
        "capability", "protocols", "layers", "n", "share lost, first (%)", "second (%)",
        "difference (points)", "p of interaction (Holm)",
    )  # fmt: skip
    cells = [
        [
            row["capability"], f"{row['first']}, {row['second']}",
            f"{row['group']} ({layer_ranges(row['layers'])})", str(row["n_items"]),
            *(bounds(row, name, f"{name}_low", f"{name}_high", 100)
              for name in ("share_first", "share_second")),
            bounds(row, "difference", "low", "high", 100), f"{row['p_holm']:.3g}",
        ]
        for row in records(protocol_interaction)
    ]  # fmt: skip
    return [Table(f"Loss by group of layers and protocol ({len(cells)})", columns, cells, True)]


def agreement_tables(run: RunTables) -> list[Table]:
    """The same in numbers."""
    method_agreement = run.table("method_agreement")
    if method_agreement is None:
        return []
    columns = (
        "capability", "protocol", "first", "second", "measure", "n", "depth by first",
        "by second", "difference or correlation", "p (Holm)",
    )  # fmt: skip
    cells = [
        [
            *(row[name] for name in ("capability", "protocol", "first", "second", "measure")),
            str(row["n_items"]), *(_depth(row[f"{name}_depth"]) for name in ("first", "second")),
            bounds(row, "estimate", "low", "high", 1, 2), f"{row['p_holm']:.3g}",
        ]
        for row in records(method_agreement)
    ]  # fmt: skip
    return [Table(f"Agreement of methods ({len(cells)})", columns, cells, True)]


def _depth(depth: float) -> str:
    return "–" if depth != depth else f"{depth:.2f}"
