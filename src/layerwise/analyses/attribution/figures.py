"""Figures of ``attribution``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerwise.presentation.charts.heat import DIVERGING, head_maps
from layerwise.presentation.charts.lines import Words, draw_series, series
from layerwise.presentation.charts.marks import level
from layerwise.presentation.charts.panels import Bar, Panels, task_title
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import by_task, layers_in, numbers, rows
from layerwise.presentation.section import bounds
from layerwise.presentation.style import FULL_WIDTH, look, with_style
from layerwise.presentation.wording import protocol_phrase

METRICS = {"logit_diff": "logit difference (nats)", "logprob": "log-probability (nats)"}
_LINES = {
    "attn_out": ("attention", look(0)),
    "mlp_out": ("MLP", look(1)),
    "cross_attn_out": ("cross-attention", look(2)),
}
_HEADS = {"z": "each head", "cross_z": "each cross-attention head"}


@with_style
def attribution_lines(
    summary: pd.DataFrame,
    protocol: str | None = None,
    metric: str = "logit_diff",
    width: float = FULL_WIDTH,
) -> Figure:
    """Contributions of the sublayers of each layer to the answer, a panel per task with signal.

    Means over items with bootstrap intervals; filled markers are significant.

    ``summary`` is the table ``attribution_summary``, with a row that has signal.
    """
    shown = _select_parts(summary, protocol, metric, list(_LINES))
    tasks = by_task(shown)
    panels = Panels([task_title(part) for _, part in tasks], width)
    for axes, (_, of_task) in zip(panels.flat, tasks, strict=True):
        level(axes, 0, gid="zero")
        lines = ((part, rows(of_task, component=part).sort_values(by="layer")) for part in _LINES)
        draw_series(axes, [
            series(line, f"mean {part}", _LINES[part][1], "value", ends=("low", "high"),
                   unit=" nats", sure="significant", label=_LINES[part][0])
            for part, line in lines
            if np.any(numbers(line, "value"))  # a model without MLPs has no line for them
        ], Words(unsure="not significant (Holm)", interval="95 % interval over items"))  # fmt: skip
    low, high = panels.flat[0].get_ylim()
    # Chosen before the layout, which could otherwise choose wider labels than it made room for.
    ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    panels.flat[0].set_yticks(ticks)
    panels.over_layers(layers_in(shown))
    return panels.finish(_title("each layer", shown, metric, "z"), "layer", ["adds (nats)"])


def _select_parts(
    summary: pd.DataFrame, protocol: str | None, metric: str, parts: list[str]
) -> pd.DataFrame:
    table = rows(summary, metric=metric, component=parts, signal=True)
    return rows(table, protocol=protocol or str(table["protocol"].iloc[0]))


def _title(what: str, shown: pd.DataFrame, metric: str, component: str) -> str:
    """Title of the drawing, and how the encoder's parts act if they are among it."""
    in_encoder = stacks().n_encoder and component == "z"
    name, asked = METRICS[metric].split(" (")[0], protocol_phrase(str(shown["protocol"].iloc[0]))
    through = "; the encoder through cross-attention" if in_encoder else ""
    return f"What {what} adds to the answer's {name} {asked}{through}"


@with_style
def attribution_heads(
    summary: pd.DataFrame,
    protocol: str | None = None,
    metric: str = "logit_diff",
    width: float = FULL_WIDTH,
    component: str = "z",
) -> Figure:
    """Contribution of each head to the answer, layers by heads, a panel per task with signal.

    Means over items, with one scale for all panels; dots are significant. Grey: no such head.

    ``summary`` is the table ``attribution_summary``, with a row that has signal.
    """
    shown = _select_parts(summary, protocol, metric, [component])
    largest = float(np.abs(numbers(shown, "value")).max())
    largest = largest if largest > 1e-6 else 1.0  # colours are not for rounding
    return head_maps(
        [(task_title(part), part) for _, part in by_task(shown)],
        "value",
        Bar(DIVERGING, -largest, largest, f"added to the answer's {METRICS[metric]}"),
        _title(_HEADS[component], shown, metric, component),
        width,
        mark="significant (Benjamini-Hochberg)",
        tell=lambda row: f"{bounds(row, 'value', 'low', 'high', 1, 2)} nats",
    )
