"""The picture of sets of heads, from their table alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.lines import Words, draw_ranges, ranges
from layerwise.presentation.charts.marks import level, points
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.lettering import label, text_inches
from layerwise.presentation.rows import numbers, records
from layerwise.presentation.style import FULL_WIDTH, NOTE, look, with_style
from layerwise.presentation.wording import protocol_words

from .tables import CHOSEN

_ROW, _LONGEST = 0.3, 30
_HEADS = {"copying": "copying heads", "cost": "costly heads", "induction": "induction heads"}


def row_name(row: dict[str, Any]) -> str:
    """``"kv-words, costly heads"``: what a set was tested on, and how its heads were chosen."""
    return f"{row['task']}, {_HEADS.get(row['by'], row['by'])}"


@with_style
def set_losses(losses: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Share of the score lost without each set, a row per task and set, a panel per protocol.

    Circles are the chosen heads, with 95 % intervals over items, filled where they cost more or
    less than the mean of the random sets; strokes are random sets.

    ``losses`` is the table ``head_set_losses``.
    """
    table = losses.loc[losses["share_lost"].notna()]
    table = table.assign(row=[row_name(row) for row in records(table)], sure=table["p_holm"] < 0.05)
    for end in ("share_lost", "share_low", "share_high"):
        table[end] = 100 * numbers(table, end)
    protocols = list(dict.fromkeys(table["protocol"]))
    names = list(dict.fromkeys(table["row"]))
    left = 0.2 + max(map(text_inches, (label(name, _LONGEST) for name in names)), default=0.4)
    titles = [[protocol_words(str(protocol))] for protocol in protocols]
    panels = Panels(titles, width, (_ROW * len(names) + 0.1,), left=left, least=2.0, most=3.6)
    words = Words("differs from random sets", "not shown to differ", "95 % interval")
    for axes, protocol in zip(panels.flat, protocols, strict=True):
        level(axes, 0, upright=True)
        shown = table.loc[table["protocol"] == protocol]
        random = shown.loc[shown["set"] != CHOSEN]
        at = [names.index(name) for name in random["row"]]
        points(axes, numbers(random, "share_lost"), at, "|", "random", "a random set",
               ms=7.0, color=NOTE, alpha=0.6)  # fmt: skip
        chosen = shown.loc[shown["set"] == CHOSEN]
        drawn = ranges(chosen, names, "row", [({}, look(0), "chosen heads")],
                       ("share_lost", "share_low", "share_high"), sure="sure")  # fmt: skip
        draw_ranges(axes, names, drawn, words, longest=_LONGEST)
    return panels.finish("What is lost without a small set of heads", x="% of the score lost")
