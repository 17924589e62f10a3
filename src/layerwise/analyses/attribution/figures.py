"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.head_maps import task_head_maps
from layerwise.presentation.lettering import label
from layerwise.presentation.naming import stacks
from layerwise.presentation.panels import finish_panels, task_panels
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, Look, look, styled

from .tables import ROUNDING

METRICS = {"logit_diff": "logit difference (nats)", "logprob": "log-probability (nats)"}
_LINES = {
    "attn_out": ("attention", look(0)),
    "mlp_out": ("MLP", look(1)),
    "cross_attn_out": ("cross-attention", look(2)),
}
_HEADS = {"z": "each head", "cross_z": "each cross-attention head"}


@styled
def attribution_lines(
    summary: pd.DataFrame,
    protocol: str | None = None,
    metric: str = "logit_diff",
    width: float = FULL_WIDTH,
) -> Figure:
    """What the sublayers of each layer add to the answer, a panel per task with signal.

    Args:
        summary: the table ``attribution_summary.parquet``, with a row that has signal.
        protocol: whose prompts are shown; the first with signal if None.
        metric: ``logit_diff`` or ``logprob``.
        width: the widest the figure may be, inches.

    Returns:
        Means over items with bootstrap intervals; filled markers are significant.
    """
    shown = _shown(summary, protocol, metric, list(_LINES))
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        axes.axhline(0, color="0.35", lw=0.6, gid="zero")
        for part, (_, seen) in _LINES.items():
            line = rows(shown, task=task, component=part).sort_values(by="layer")
            if np.any(numbers(line, "value")):  # a model without MLPs has no line for them
                _draw_line(axes, line, seen)
    first = next(iter(panels.values()))
    low, high = first.get_ylim()
    # Chosen before the layout, which could otherwise choose wider labels than it made room for.
    ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    first.set_yticks(ticks)
    finish_panels(figure, list(panels.values()), layers_of(shown), "adds (nats)")
    set_title(figure, f"What each layer adds to the answer's {METRICS[metric].split(' (')[0]}, "
              f"{label(str(shown['protocol'].iloc[0]))} prompts{_through()}")  # fmt: skip
    legend_below(figure, _handles(set(shown["component"])))
    return figure


def _shown(
    summary: pd.DataFrame, protocol: str | None, metric: str, parts: list[str]
) -> pd.DataFrame:
    found = rows(summary, metric=metric, component=parts, signal=True)
    return rows(found, protocol=protocol or str(found["protocol"].iloc[0]))


def _through(component: str = "z") -> str:
    """How the encoder's parts act, where there are any among those drawn."""
    in_encoder = stacks().n_encoder and component == "z"
    return "; the encoder through cross-attention" if in_encoder else ""


def _draw_line(axes: Axes, line: pd.DataFrame, seen: Look) -> None:
    x, y = numbers(line, "layer"), numbers(line, "value")
    part, low, high = str(line["component"].iloc[0]), numbers(line, "low"), numbers(line, "high")
    # No line from the encoder's last layer to the decoder's first: they do not add to one stream.
    gap = np.searchsorted(x, stacks().n_encoder) if stacks().n_encoder else []
    over, mean, low, high = (np.insert(values, gap, np.nan) for values in (x, y, low, high))
    axes.plot(over, mean, color=seen.color, ls=seen.linestyle, lw=0.9, gid=f"mean {part}")
    axes.fill_between(over, low, high, color=seen.color, alpha=0.22, lw=0, gid=f"band {part}")
    sure = line["significant"].to_numpy(dtype=bool)
    for chosen, face in ((sure, seen.color), (~sure, "white")):
        axes.plot(
            x[chosen], y[chosen], ls="", marker=seen.marker, ms=2.6, mew=0.6, mec=seen.color,
            mfc=face, gid=f"{'sure' if face != 'white' else 'unsure'} {part}",
        )  # fmt: skip


def _handles(parts: set[str]) -> list[Line2D | Patch]:
    lines: list[Line2D | Patch] = []
    for name, seen in (known for part, known in _LINES.items() if part in parts):
        handle = Line2D([], [], color=seen.color, marker=seen.marker, ls=seen.linestyle)
        handle.set(ms=3, lw=0.9, label=name)
        lines.append(handle)
    hollow = Line2D([], [], color="0.35", marker="o", mfc="white", ls="", ms=3)
    hollow.set_label("not significant (Holm)")
    return [*lines, hollow, Patch(facecolor="0.6", alpha=0.35, label="95 % interval over items")]


@styled
def attribution_heads(
    summary: pd.DataFrame,
    protocol: str | None = None,
    metric: str = "logit_diff",
    width: float = FULL_WIDTH,
    component: str = "z",
) -> Figure:
    """What each head adds to the answer, layers by heads, a panel per task with signal.

    Args:
        summary: the table ``attribution_summary.parquet``, with a row that has signal.
        protocol: whose prompts are shown; the first with signal if None.
        metric: ``logit_diff`` or ``logprob``.
        width: the widest the figure may be, inches.
        component: ``z``, or ``cross_z`` for the heads of cross-attention.

    Returns:
        Means over items, with one scale for all panels; dots are significant. Grey: no such head.
    """
    shown = _shown(summary, protocol, metric, [component])
    largest = float(np.abs(numbers(shown, "value")).max())
    largest = largest if largest > ROUNDING else 1.0  # colours are not for rounding
    unit = f"added to the answer's {METRICS[metric]}"
    figure = task_head_maps(shown, "value", largest, unit, width)
    set_title(figure, f"What {_HEADS[component]} adds to the answer's "
              f"{METRICS[metric].split(' (')[0]}, "
              f"{label(str(shown['protocol'].iloc[0]))} prompts{_through(component)} (dots: "
              "significant after Benjamini-Hochberg)")  # fmt: skip
    return figure
