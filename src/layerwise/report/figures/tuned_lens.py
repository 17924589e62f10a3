"""How far both lenses are from the final distribution, layer by layer, on held-out texts.

It reads the table ``tuned_lens_layers`` only.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from layerwise.report.figures.grid import legend_below, set_title
from layerwise.report.figures.layer_axis import name_layers
from layerwise.report.figures.style import COLUMN_WIDTH, look, new_figure, styled
from layerwise.report.rows import numbers
from layerwise.report.wording import spread


@styled
def tuned_lens_curves(layers: pd.DataFrame, width: float = COLUMN_WIDTH) -> Figure:
    """KL divergence from the final distribution under the logit lens and the tuned lens.

    Args:
        layers: the table ``tuned_lens_layers.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        Means over held-out texts with bootstrap intervals, on a logarithmic scale. Filled
        markers of the tuned lens: significantly lower.
    """
    shown = layers.sort_values(by="layer")
    figure = new_figure(max(COLUMN_WIDTH, min(width, 4.6)), 2.6)
    axes = figure.subplots()
    at, handles = numbers(shown, "layer"), []
    for i, name in enumerate(("logit", "tuned")):
        seen, column = look(i), f"kl_{name}"
        (line,) = axes.plot(
            at, numbers(shown, column), color=seen.color, ls=seen.linestyle, lw=0.9,
            marker=seen.marker, ms=3, mfc="white", label=f"{name} lens", gid=column,
        )  # fmt: skip
        low, high = (numbers(shown, f"{column}_{end}") for end in ("low", "high"))
        axes.fill_between(at, low, high, color=seen.color, alpha=0.22, lw=0)
        handles.append(line)
    lower = shown.loc[shown["lower"]]
    axes.plot(
        numbers(lower, "layer"), numbers(lower, "kl_tuned"), ls="", marker=look(1).marker, ms=3,
        color=look(1).color, gid="lower",
    )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    name_layers(axes, "x", [int(layer) for layer in at], figure.get_figwidth() - 0.6, 0.26)
    axes.set_xlabel("layer (−1: embedding)")
    axes.set_ylabel("KL to final (nats)")
    axes.grid(axis="y", color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    handles += axes.plot(
        [], [], ls="", marker="o", color="0.35", ms=3, label="filled: lower (Holm)"
    )
    legend_below(figure, handles)
    texts = f"n = {spread(shown['n_texts'])} held-out texts"
    set_title(figure, f"Tuned lens, {shown['kind'].iloc[0]} ({texts})")
    return figure
