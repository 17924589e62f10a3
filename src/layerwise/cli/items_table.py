"""Items with their answers, as tables that fit a terminal of 80 columns."""

from __future__ import annotations

import sys
from typing import Any

from .printing import WIDE, say

# Longer texts lose their middle; the columns wrap what is left between words.
_LONGEST = {"question": 100, "gold": 40, "intact": 40, "without": 40}
# Of a column of answers on a terminal.
_WIDTH = 13


def show_items(found: Any, layer: str, *, every: bool) -> None:
    """A table for each protocol, and how many items changed.

    Args:
        found: the frame of ``layerwise.items``, of all items.
        layer: what the layer is called.
        every: also show items that did not change.
    """
    for protocol, group in found.groupby("protocol", sort=True):
        counts = [int((group["fate"] == fate).sum()) for fate in ("lost", "gained")]
        say(
            f"{group['task'].iloc[0]}, {protocol}, without layer {layer}: {counts[0]} lost, "
            f"{counts[1]} gained, of {len(group)} items."
        )
        shown = group if every else group.loc[group["fate"].isin(("lost", "gained"))]
        if len(shown):
            _print(shown, layer)
    if not every:
        say("--all lists the items that did not change, too.")


def _print(shown: Any, layer: str) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from layerwise.analyses.ablation.items import shortened

    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    margins = bool(shown["margin_change"].notna().any())
    table.add_column("", no_wrap=True)
    narrow = _WIDTH if sys.stdout.isatty() else None
    table.add_column("asked", overflow="ellipsis")
    for head in ("answer", "intact", f"without {layer}"):
        table.add_column(head, overflow="ellipsis", max_width=narrow)
    if margins:
        table.add_column("margin", justify="right", no_wrap=True)
    for row in shown.to_dict("records"):
        texts = [shortened(row[name], most) for name, most in _LONGEST.items()]
        number = [f"{row['margin_change']:+.1f} nats"] if margins else []
        cells = [row["fate"], *texts, *number]
        table.add_row(*(Text(text) for text in cells))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
