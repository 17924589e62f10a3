"""Tables that fit a terminal of 80 columns: items with their answers, and a model's score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from layerwise.errors import printable

from .printing import WIDE, say, show_notes

# Longer texts lose their middle; the columns wrap what is left between words.
_LONGEST = {"question": 100, "gold": 30, "intact": 30, "without": 30}
_SCORE = ("task", "protocol", "n", "right", "chance", "blind", "none", "takes", "signal")
_LEGEND = (
    "Percent of items that are right, with the 95 % interval, and what that is\n"
    "compared with: chance; blind, asked another item's question; none, without any\n"
    "layer. takes: the option that is taken most often."
)
# Of a column of answers on a terminal.
_WIDTH = 13


def show_items(items: Any, layer: str, *, every: bool) -> None:
    """A table for each protocol, and how many items changed."""
    for protocol, group in items.groupby("protocol", sort=True):
        counts = [int((group["fate"] == fate).sum()) for fate in ("lost", "gained")]
        say(
            f"{group['task'].iloc[0]}, {protocol}, without layer {layer}: {counts[0]} lost, "
            f"{counts[1]} gained, of {len(group)} items."
        )
        shown = group if every else group.loc[group["fate"].isin(("lost", "gained"))]
        if len(shown):
            _show_answers(shown, layer)
    if not every:
        say("--all lists the items that did not change, too.")


def _show_answers(shown: Any, layer: str) -> None:
    from layerwise.analyses.ablation.items import shortened

    margins = bool(shown["margin_change"].notna().any())
    rows = [
        [
            row["fate"],
            *(shortened(row[name], most) for name, most in _LONGEST.items()),
            *([f"{row['margin_change']:+.1f} nats"] if margins else []),
        ]
        for row in shown.to_dict("records")
    ]
    narrow = _WIDTH if sys.stdout.isatty() else None
    answers = dict.fromkeys(("answer", "intact", f"without {layer}"), narrow)
    heads = {"": None, "asked": None, **answers} | ({"margin": None} if margins else {})
    _print(heads, rows, whole=("", "margin"))


def show_score(result: Any, out: Path | None) -> None:
    """A model's accuracy beside its controls, and what to try where it has no signal."""
    table = result.summary_rows()
    say(f"{result!r}\n\n{_LEGEND}")
    rows = [list(map(str, row)) for row in table.itertuples(index=False)]
    _print(dict.fromkeys(_SCORE), rows, whole=_SCORE[1:])
    show_notes(result)
    if out is not None:
        say(f"Tables: {out}")


def _print(heads: dict[str, int | None], rows: list[list[str]], whole: tuple[str, ...]) -> None:
    """Print a table that breaks lines between words alone."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for head, width in heads.items():
        table.add_column(head, overflow="ellipsis", max_width=width, no_wrap=head in whole)
    for row in rows:
        table.add_row(*(Text(printable(text)) for text in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
