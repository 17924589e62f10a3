"""Figures of ``transplant``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.errors import UserError
from layerwise.presentation.charts.heat import DIVERGING, colour_limit, head_maps
from layerwise.presentation.charts.lines import LineSeries, Words, draw_series, series
from layerwise.presentation.charts.marks import level
from layerwise.presentation.charts.panels import Bar, Panels, task_title
from layerwise.presentation.rows import by_protocol, by_task, layers_in, numbers, rows
from layerwise.presentation.section import bounds
from layerwise.presentation.style import FULL_WIDTH, protocol_look, with_style
from layerwise.presentation.wording import HEAD_WORDS, protocol_phrase, protocol_words

from .exchange.names import WEIGHTS, site_words

_TITLES = {
    "single": "one layer",
    "from_first": "all layers up to this one",
    "from_last": "all layers from this one on",
}
_LEAST, _MOST = -60.0, 160.0
# Beside each other, so that neither direction and no protocol covers another.
_ASIDE, _APART = {"brings": -0.16, "destroys": 0.16}, 0.08
_WORDS = Words(
    "filled: brings the better model's into the other",
    "open: destroys with the other's in the better model",
    "95 % interval",
)
_HEAD_TITLES = {
    "brings": "One {} of the better model put into the other",
    "destroys": "One {} of the other model put into the better one",
}


@with_style
def gap_share_by_layer(
    effects: pd.DataFrame,
    chosen: str | None = None,
    width: float = FULL_WIDTH,
    exchange: str | None = None,
) -> Figure:
    """The share of the gap between two models that moves with a layer, in both directions.

    A panel per task and a colour per protocol: filled, what the better model's layers bring to the
    other; open, what the other's layers destroy in the better one. Lines are 95 % intervals, cut
    off at the panel's edge.

    ``effects`` is ``transplant_effects``.

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
    name = next((name for name in _TITLES if name in set(placed["set"])), "single")
    shown = rows(placed, set=chosen or name)
    tasks = by_task(shown)
    panels = Panels([task_title(of_task) for _, of_task in tasks], width)
    for axes, (_, of_task) in zip(panels.flat, tasks, strict=True):
        lines = by_protocol(of_task)
        for i, (protocol, line) in enumerate(lines):
            aside = _APART * (i - (len(lines) - 1) / 2)
            draw_series(axes, [_moved_series(line, protocol, way, aside) for way in _ASIDE], _WORDS)
        for share in (0, 100):
            level(axes, share, ls=(0, (4, 2)))
    shares, (low, high) = 100 * numbers(shown, "share"), panels.flat[0].get_ylim()
    least, most = min(_LEAST, np.nanmin(shares) - 5), max(_MOST, np.nanmax(shares) + 5)
    panels.flat[0].set_ylim(max(low, least), min(high, most))
    panels.over_layers(layers_in(shown))
    first = shown.iloc[0]
    where = f"{site_words(first['site'], first['exchange'])}{_TITLES[chosen or name]}"
    title = f"What moves with {where}, between two models"
    return panels.finish(title, "layer", ["share of the gap (%)"])


def _moved_series(line: pd.DataFrame, protocol: str, direction: str, aside: float) -> LineSeries:
    table, brings = rows(line, direction=direction), direction == "brings"
    return series(
        table.assign(brings=brings), f"{direction} {protocol}", protocol_look(protocol), "share",
        at=numbers(table, "layer") + aside + _ASIDE[direction], ends=("share_low", "share_high"),
        scale=100, unit=" % of the gap", sure="brings", band=False, line=brings,
        label=protocol_words(protocol) if brings else "",
    )  # fmt: skip


@with_style
def gap_share_by_head(
    effects: pd.DataFrame,
    direction: str = "brings",
    protocol: str | None = None,
    width: float = FULL_WIDTH,
    exchange: str | None = None,
) -> Figure:
    """The share of the gap between two models that moves with a head, or a key/value group.

    A panel of layers by heads for each task. Colours run about 0; dots mark what is significant
    after Holm's correction over the heads of a panel.

    ``effects`` is ``transplant_effects`` of single heads.

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
    noun, limit = HEAD_WORDS[str(shown["site"].iloc[0])], colour_limit(shown, "share")
    what = noun if str(shown["exchange"].iloc[0]) == WEIGHTS else f"{noun}'s output"
    title = _HEAD_TITLES[direction].format(what)
    return head_maps(
        [(task_title(of_task), of_task) for _, of_task in by_task(shown)],
        "share",
        Bar(DIVERGING, -limit, limit, "share of the gap that moves (below 0: the gap grows)"),
        f"{title}, {protocol_phrase(str(shown['protocol'].iloc[0]))}",
        width,
        heads=noun,
        mark="significant (Holm)",
        tell=lambda row: f"{bounds(row, 'share', 'share_low', 'share_high', 100)} % of the gap",
    )
