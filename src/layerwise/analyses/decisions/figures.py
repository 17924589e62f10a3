"""The picture of sequential decisions, from its table alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from layerwise.presentation.charts.heat import ROW, Mark, Row, cells, draw_heat
from layerwise.presentation.charts.marks import note
from layerwise.presentation.charts.panels import Bar, Panels
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    in_order,
    protocol_words,
)
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.crossings import CROSSING

# From light to dark, so that a grey print tells them apart.
_LOOKS = {"open": "0.93", SPARE: "#9fd3c7", NEEDED: "#1d4e6b"}
_WORDS = {
    "open": "open after all items", SPARE: "spare: it costs less than what matters",
    NEEDED: "needed: it costs something",
}  # fmt: skip
_TOOK: dict[str, Any] = {"facecolor": "0.15", "edgecolor": "none"}
_NEEDED_AND_SPARE = "needed, and spare: it costs something that is too little to matter"
_BAR = Bar(ListedColormap(list(_LOOKS.values())), -0.5, 2.5, "")
_CROSSED = Mark(
    "costs more than another layer, which costs another capability more",
    lambda row: bool(row["crossed"]), "^", "crossing",
)  # fmt: skip
_BOTH = Mark(_NEEDED_AND_SPARE, lambda row: bool(row["both"]), "o", "both")


def layer_verdicts(decisions: pd.DataFrame) -> pd.DataFrame:
    """A row per capability, protocol and layer of the table ``decisions``.

    ``look`` is ``needed``, ``spare`` or ``open``; ``both`` where it is needed and spare;
    ``crossed``; ``n_asked`` and ``n_all`` answers.
    """
    found: list[dict[str, Any]] = []
    keys = ["capability", "protocol", "layer"]
    for _, part in decisions.groupby(keys, sort=False):
        (first, *_), sure = records(part), set(part.loc[part["established"], "question"])
        look = SPARE if SPARE in sure else NEEDED if NEEDED in sure else "open"
        found.append({
            **{name: first[name] for name in (*keys, "n_all")}, "look": look,
            "both": {NEEDED, SPARE} <= sure, "crossed": CROSSING in sure,
            "n_asked": int(numbers(part, "n_asked").max()),
        })  # fmt: skip
    return pd.DataFrame(found)


@with_style
def decision_strip(decisions: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Verdicts on every layer, a row per capability and way of scoring.

    Colour is the verdict. The bar in a cell is the share of the items that it took; a triangle
    marks a crossing, a dot a layer that costs something, but too little to matter.

    ``decisions`` is the table ``decisions``.
    """
    shown = layer_verdicts(decisions)
    shown["code"] = [list(_LOOKS).index(look) for look in shown["look"]]
    pairs = [
        (capability, protocol)
        for capability in in_order(shown["capability"], CAPABILITY_ORDER)
        for protocol in in_order(rows(shown, capability=capability)["protocol"], PROTOCOL_ORDER)
    ]
    names = [f"{capability}, {protocol_words(protocol)}" for capability, protocol in pairs]
    shown["row"] = [
        names[pairs.index((row["capability"], row["protocol"]))] for row in records(shown)
    ]
    layers, left = layers_in(shown), 1.7
    panels = Panels([[]], width, (ROW * len(names),), least=width, most=width, left=left)
    axes = panels.flat[0]
    drawn = cells(shown, "code", ("row", names), ("layer", layers), (_CROSSED, _BOTH), _tell)
    draw_heat(axes, drawn, _BAR, (panels.room, ROW * len(names)))
    for row in records(shown):
        _draw_share(axes, layers.index(row["layer"]), names.index(row["row"]), row)
    fits = characters(left - 0.15)
    axes.set_yticks([i + 0.5 for i in range(len(names))], [label(name, fits) for name in names])
    for look, colour in _LOOKS.items():
        if len(rows(shown, look=look)):
            note(axes, Patch(facecolor=colour, edgecolor="0.6", linewidth=0.4, label=_WORDS[look]))
    note(axes, Patch(label="bar: share of the items that this took", **_TOOK))
    panels.over_layers(layers, cells=True)
    return panels.finish("Layers that are decided, and the items that it took", "layer")


def _draw_share(axes: Axes, x: int, y: int, row: Row) -> None:
    """A bar at the foot of a cell: answers that were asked, of all."""
    share = row["n_asked"] / row["n_all"]
    looks = dict(_TOOK)
    if row["look"] == NEEDED:
        looks["facecolor"] = _LOOKS[SPARE]  # a page leaves white out
    axes.add_patch(Rectangle((x + 0.08, y + 0.76), 0.84 * share, 0.12, **looks))


def _tell(row: Row) -> str:
    verdict = _NEEDED_AND_SPARE if row["both"] else _WORDS[row["look"]]
    asked = f"{row['n_asked']} of {row['n_all']} answers"
    return f"{row['row']}, layer {name_layer(row['layer'])}: {verdict}; {asked}"
