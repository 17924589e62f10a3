"""Two capabilities against each other, a point per layer: one rising curve is one order of layers.

State-trace plots (Bamber 1979, J. Math. Psychol. 19) of ``effects``, for the pairs of
capabilities and the crossings of ``estimates.parquet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from layerwise.presentation.charts.marks import points
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.lettering import label
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_in, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, figure_from_axes, look, with_style
from layerwise.presentation.wording import (
    LAYER_MAIN,
    join_words,
    writes,
)

from ..claims.differences import CapabilityComparison

# Points closer than this share of the panel have one text for all.
_CLOSE = 0.06


class Accuracy(NamedTuple):
    """Right answers in percent."""

    intact: float
    without: dict[int, float]  # by layer


def pooled_accuracy(
    effects: pd.DataFrame, tasks: tuple[str, ...], protocols: tuple[str, ...]
) -> Accuracy:
    """Accuracy over all items of some tasks and protocols."""
    shown = rows(effects, task=list(tasks), protocol=list(protocols))
    by_layer = {}
    intact = np.nan
    for layer in layers_in(shown):
        at = rows(shown, layer=layer)
        weight = numbers(at, "n_items")
        intact = 100 * np.average(numbers(at, "acc_intact"), weights=weight)
        by_layer[layer] = float(100 * np.average(numbers(at, "acc"), weights=weight))
    return Accuracy(float(intact), by_layer)


@with_style
def state_trace(
    effects: pd.DataFrame,
    pairs: Sequence[CapabilityComparison],
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """Two capabilities against each other, a point for the model without each layer.

    If one order of layers explains both, the points rise together along one curve, whatever the
    difficulty of either. Marked layers cross: each of the one kind costs the vertical capability
    more, and the horizontal one less, than some layer of the other kind (``estimates.parquet``).

    ``effects`` is the table ``effects``, ``pairs`` what was compared, a panel for each.
    """
    shown = rows(effects, kind=kind, site=site)
    titles = [
        [" against ".join(pair.capabilities), f"when it {join_words(map(writes, pair.protocols))}"]
        for pair in pairs
    ]
    panels = Panels(titles, width, (1.75,), least=2.0, most=2.6, left=0.45, share="")
    for axes, pair in zip(panels.flat, pairs, strict=True):
        _draw(axes, shown, pair)
    figure = panels.finish("Two capabilities, a point for the model without each layer", below=0.5)
    for axes, pair in zip(panels.flat, pairs, strict=True):
        for name, tasks, put in zip(pair.capabilities, pair.tasks, "yx", strict=True):
            whose = tasks[0] if len(tasks) == 1 else name
            getattr(axes, f"set_{put}label")(label(f"{whose}, right (%)", panels.fits))
    return figure


def _draw(axes: Axes, effects: pd.DataFrame, pair: CapabilityComparison) -> None:
    vertical, horizontal = pair.tasks
    y = pooled_accuracy(effects, vertical, pair.protocols)
    x = pooled_accuracy(effects, horizontal, pair.protocols)
    axes.set_xlim(-5, 8 + max(x.intact, *x.without.values()))
    axes.set_ylim(-5, 8 + max(y.intact, *y.without.values()))
    axes.grid(color="0.92", lw=0.5)
    axes.set_axisbelow(True)
    one, two = pair.capabilities
    places = {layer: (x.without[layer], y.without[layer]) for layer in y.without}
    marked = {layer for side in pair.layers for layer in side}
    plain = [at for layer, at in places.items() if layer not in marked]
    points(axes, *_split_xy(plain), "o", "layers", "other layers", color="0.7", ms=3.6)
    for i, axis in enumerate(("vertical", "horizontal")):
        side = pair.layers[i]
        kind, own = look(i), {layer: places[layer] for layer in side}
        text = f"matters to the {axis} one rather than to the other"
        split = _split_xy(list(own.values()))
        points(axes, *split, kind.marker, f"side {i}", text, color=kind.color, ms=4.6)
        _name(axes, own, kind.color, above=axis == "horizontal")
    for layer, at in places.items():
        text = f"without layer {name_layer(layer)}: {at[1]:.0f} % of {one}, {at[0]:.0f} % of {two}"
        figure_from_axes(axes).add_tooltip(axes, at * 2, text)
    points(axes, [x.intact], [y.intact], "*", "intact", "full model", ms=7)


def _split_xy(places: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _name(axes: Axes, places: dict[int, tuple[float, float]], color: str, *, above: bool) -> None:
    """Number the layers, those that lie close together in one text."""
    left = dict(sorted(places.items()))
    while left:
        first, at = next(iter(left.items()))
        close = [layer for layer, place in left.items()
                 if np.abs(np.subtract(place, at)).max() < 100 * _CLOSE]  # fmt: skip
        text = ", ".join(name_layer(layer) for layer in close)
        x, y = np.mean([left[layer] for layer in close], axis=0)
        axes.annotate(
            text, (x, y), xytext=(0, 4 if above else -4), textcoords="offset points", color=color,
            ha="center", va="bottom" if above else "top", fontsize=6.5, gid=f"names of {first}",
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )  # fmt: skip
        for layer in close:
            del left[layer]
