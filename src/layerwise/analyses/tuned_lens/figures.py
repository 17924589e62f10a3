"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from layerwise.analyses.logit_lens.tables import TUNED_DECODER_LENS, UNTRANSLATED
from layerwise.presentation.grid import layer_ticks, legend_below, rows_and_columns, set_title
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import COLUMN_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import in_order, number, spread_of

_PANEL, _ONE_PANEL, _LEAST = 3.0, 4.6, 2.6
_STACKS = {TUNED_DECODER_LENS: "encoder", "tuned": "decoder"}


@styled
def tuned_lens_curves(layers: pd.DataFrame, width: float = COLUMN_WIDTH) -> Figure:
    """KL divergence from the final distribution with trained translators and without.

    Args:
        layers: the table ``tuned_lens_layers.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        Means over held-out texts with bootstrap intervals, on a logarithmic scale; of an
        encoder-decoder a panel for each stack. Filled markers of the tuned lens: significantly
        lower.
    """
    lenses = in_order(layers["lens"], tuple(UNTRANSLATED))
    several = len(lenses) > 1
    down, across = rows_and_columns(len(lenses), width, _LEAST)
    widest = _PANEL * across if several else _ONE_PANEL
    figure = new_figure(max(COLUMN_WIDTH, min(width, widest)), 1.7 * down + 0.9)
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes, lens in zip(grid, lenses, strict=True):
        _draw(axes, rows(layers, lens=lens), figure.get_figwidth() / across - 0.6)
        if several:
            axes.set_title(f"{_STACKS[lens]}: {UNTRANSLATED[lens]} and {lens} lens", loc="left")
    for axes in grid[::across]:
        axes.set_ylabel("KL to final (nats)")
    names = ["no translator", "tuned"] if several else ["logit lens", "tuned lens"]
    handles = [
        grid[0].plot([], [], color=look(i).color, ls=look(i).linestyle, lw=0.9,
                     marker=look(i).marker, ms=3, mfc="white", label=name)[0]
        for i, name in enumerate(names)
    ]  # fmt: skip
    handles += grid[0].plot(
        [], [], ls="", marker="o", color="0.35", ms=3, label="filled: lower (Holm)"
    )
    legend_below(figure, handles)
    texts = f"n = {spread_of(layers['n_texts'], 'held-out text')}"
    set_title(figure, f"Tuned lens, {layers['kind'].iloc[0]} ({texts})")
    return figure


def _draw(axes: Axes, mine: pd.DataFrame, room: float) -> None:
    """One stack; its layers are numbered from what enters the first, which is -1."""
    shown = mine.sort_values(by="layer")
    shown = shown.assign(at=numbers(shown, "layer") - numbers(shown, "layer").min() - 1)
    at = numbers(shown, "at")
    for i, column in enumerate(("kl_logit", "kl_tuned")):
        seen = look(i)
        axes.plot(
            at, numbers(shown, column), color=seen.color, ls=seen.linestyle, lw=0.9,
            marker=seen.marker, ms=3, mfc="white", gid=column,
        )  # fmt: skip
        low, high = (numbers(shown, f"{column}_{end}") for end in ("low", "high"))
        axes.fill_between(at, low, high, color=seen.color, alpha=0.22, lw=0)
    lower = shown.loc[shown["lower"]]
    axes.plot(
        numbers(lower, "at"), numbers(lower, "kl_tuned"), ls="", marker=look(1).marker, ms=3,
        color=look(1).color, gid="lower",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks = layer_ticks(map(int, at), room, 0.26)
    axes.set_xticks(ticks, [number(float(tick)) for tick in ticks])
    axes.set_xlabel("layer (−1: embedding)")
    axes.grid(axis="y", color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
