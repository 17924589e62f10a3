"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.errors import UserError
from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.head_maps import scale_of, task_head_maps
from layerwise.presentation.lettering import label
from layerwise.presentation.panels import by_protocol, finish_panels, protocol_handles, task_panels
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import HEAD_WORDS

from .names import ACTIVATIONS, WEIGHTS
from .naming import part_words

_TITLES = {
    "single": "one layer",
    "from_first": "all layers up to this one",
    "from_last": "all layers from this one on",
}
_LEAST, _MOST = -60.0, 160.0
# Beside each other, so that neither direction and no protocol covers another.
_ASIDE, _APART = {"brings": -0.16, "destroys": 0.16}, 0.08
_HEAD_TITLES = {
    "brings": "One {} of the better model put into the other",
    "destroys": "One {} of the other model put into the better one",
}


@styled
def moved_by_layer(
    effects: pd.DataFrame,
    chosen: str | None = None,
    width: float = FULL_WIDTH,
    exchange: str | None = None,
) -> Figure:
    """The share of the gap between two models that moves with a layer, in both directions.

    Args:
        effects: ``transplant_effects.parquet``.
        chosen: the ``set`` that is shown; if None the first of them that has an axis of layers.
        width: the widest the figure may be, inches.
        exchange: ``weights`` or ``activations``; the first that was exchanged if None.

    Returns:
        A panel per task and a colour per protocol: filled, what the better model's layers bring
        to the other; open, what the other's layers destroy in the better one. Lines are 95 %
        intervals, cut off at the panel's edge.

    Raises:
        UserError: if no layers were exchanged one by one.
    """
    placed = pd.DataFrame(effects.loc[effects["layer"].notna() & (effects["t"] == 1)])
    if placed.empty:
        raise UserError(
            "No layers were exchanged one by one, so that there is nothing to draw by layer; "
            "expected a run of single layers or cumulative sets, or read effects()."
        )
    placed = rows(placed, exchange=exchange or str(placed["exchange"].iloc[0]))
    name = next((one for one in _TITLES if one in set(placed["set"])), "single")
    shown = rows(placed, set=chosen or name)
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        lines = by_protocol(rows(shown, task=task))
        for number, (protocol, mine) in enumerate(lines):
            for direction, aside in _ASIDE.items():
                at = aside + _APART * (number - (len(lines) - 1) / 2)
                _draw(axes, protocol, direction, rows(mine, direction=direction), at)
        for level in (0, 100):
            axes.axhline(level, color="0.6", lw=0.6, ls=(0, (4, 2)), zorder=0)
    every = list(panels.values())
    low, high = _limits(shown)
    every[0].set_ylim(low, high)
    finish_panels(figure, every, layers_of(shown), "share of the gap (%)")
    site = str(shown["site"].iloc[0])
    part = "" if site == "layer" else f"{part_words(site)} of "
    if str(shown["exchange"].iloc[0]) == ACTIVATIONS:
        part = f"the {part_words(site)} output of " if part else "the residual stream after "
    set_title(figure, f"What moves with {part}{_TITLES[chosen or name]}, between two models")
    legend_below(figure, [*protocol_handles(shown), *_notes()])
    return figure


def _draw(axes: Axes, protocol: str, direction: str, line: pd.DataFrame, aside: float) -> None:
    seen, filled = protocol_look(protocol), direction == "brings"
    x = numbers(line, "layer") + aside
    share, low, high = (100 * numbers(line, name) for name in ("share", "share_low", "share_high"))
    axes.vlines(x, low, high, color=seen.color, lw=0.8, alpha=0.7)
    axes.plot(
        x, share, color=seen.color, marker=seen.marker, ms=3, mew=0.7,
        ls=seen.linestyle if filled else "", lw=0.9,
        mfc=seen.color if filled else "white", gid=f"{direction} {protocol}",
    )  # fmt: skip


def _limits(shown: pd.DataFrame) -> tuple[float, float]:
    """All estimates, and as much of the intervals as leaves these apart."""
    bounds = [100 * numbers(shown, name) for name in ("share_low", "share", "share_high")]
    least, most = (float(f(np.concatenate(bounds))) for f in (np.nanmin, np.nanmax))
    inner = [float(f(bounds[1])) for f in (np.nanmin, np.nanmax)]
    low = min(inner[0] - 5, max(least - 5, _LEAST), -8)
    return low, max(inner[1] + 5, min(most + 5, _MOST), 108)


def _notes() -> list[Line2D]:
    grey = {"color": "0.35", "marker": "o", "ms": 3, "lw": 0.9}
    return [
        Line2D([], [], **grey, label="brings: the better model's in the other"),
        Line2D([], [], **grey, ls="", mfc="white",
               label="destroys: the other's in the better model"),
    ]  # fmt: skip


@styled
def moved_by_head(
    effects: pd.DataFrame,
    direction: str = "brings",
    protocol: str | None = None,
    width: float = FULL_WIDTH,
    exchange: str | None = None,
) -> Figure:
    """The share of the gap between two models that moves with a head, or a key/value group.

    Args:
        effects: ``transplant_effects.parquet`` of single heads.
        direction: ``brings`` or ``destroys``.
        protocol: the protocol shown; the first with a gap if None.
        width: the widest the figure may be, inches.
        exchange: ``weights`` or ``activations``; the first that was exchanged if None.

    Returns:
        A panel of layers by heads for each task. Colours run about 0; dots mark what is
        significant after Holm's correction over the heads of a panel.

    Raises:
        UserError: if no head was exchanged alone.
    """
    shown = rows(effects, set="single", t=1.0, signal=True, direction=direction)
    if shown.empty:
        raise UserError(
            "No head was exchanged alone, and sets of heads have no place in a map of layers by "
            "heads; expected a run with sets='single', or read effects()."
        )
    shown = rows(shown, exchange=exchange or str(shown["exchange"].iloc[0]))
    shown = rows(shown, protocol=protocol or str(shown["protocol"].iloc[0]))
    noun = HEAD_WORDS[str(shown["site"].iloc[0])]
    gap = " " if width > 5 else "\n"
    unit = f"share of the gap that moves{gap}(below 0: the gap grows)"
    figure = task_head_maps(shown, "share", scale_of(shown, "share"), unit, width, noun)
    what = noun if str(shown["exchange"].iloc[0]) == WEIGHTS else f"{noun}'s output"
    title = _HEAD_TITLES[direction].format(what)
    set_title(figure, f"{title}, {label(str(shown['protocol'].iloc[0]))} protocol "
              "(dots: significant after Holm)")  # fmt: skip
    return figure
