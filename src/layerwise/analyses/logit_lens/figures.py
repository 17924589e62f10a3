"""Figures of ``logit_lens``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from layerwise.analyses.shared.lens_names import LENS_ORDER
from layerwise.presentation.charts.lines import LineSeries, draw_ranges, draw_series, ranges, series
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.layer_axis import name_depths
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import layers_in, numbers, parts, records, rows
from layerwise.presentation.style import FULL_WIDTH, look, plain_log_scale, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_range,
    in_order,
    interval,
    protocol_phrase,
    protocol_words,
)
from layerwise.stats.families.over_items import bounds_over_items

_NAMES = {
    "logprob": "answer's log-\nprobability (nats)",
    "rank": "answer's median\nrank (1 = top)",
    "entropy": "entropy\n(nats)",
    "kl": "KL to final\n(nats)",
}
MEASURES = tuple(_NAMES)
_TASKS_IN_COLUMN = 4


@with_style
def lens_curves(
    lens: pd.DataFrame,
    protocol: str | None = None,
    measures: tuple[str, ...] = MEASURES,
    width: float = FULL_WIDTH,
    seed: int = 0,
) -> Figure:
    """Rise of the answer through the layers (logit lens, nostalgebraist 2020).

    Lines are means over items with bootstrap intervals (rank: the median with its exact order-
    statistic interval). Layer -1 is the embedding.

    ``lens`` is the table ``lens.parquet``; of its rows those at the prompt's last position are
    drawn, by the first lens and site that there are; ``measures`` is of ``logprob``, ``rank``,
    ``entropy`` and ``kl``, a row of panels each.
    """
    protocol = str(lens["protocol"].iloc[0]) if protocol is None else protocol
    shown = rows(lens, protocol=protocol, over="prompt", pos=-1)
    name, site = in_order(shown["lens"], LENS_ORDER)[0], in_order(shown["site"], ("resid_post",))[0]
    shown = rows(shown, lens=name, site=site)
    columns = _columns(shown)
    panels = Panels(
        [[heading] for heading, _ in columns], width, [0.95] * len(measures), most=2.6, left=0.8,
        below=0.15 * max(len(tasks) for _, tasks in columns) + 0.1,
    )  # fmt: skip
    drawn: dict[str, list[LineSeries]] = {measure: [] for measure in measures}
    for column, (_, tasks) in zip(panels.axes, columns, strict=True):
        for axes, measure in zip(column, measures, strict=True):
            named = enumerate(rows(shown, task=task) for task in tasks)
            curves = [_curve(part, measure, i, seed) for i, part in named]
            draw_series(axes, curves)
            drawn[measure] += curves
        panels.add_panel_legend(column[-1])
    panels.over_layers(layers_in(shown))
    for axes, measure in zip(panels.axes[0], measures, strict=True):
        _scale(axes, measure, drawn[measure])
    items = [len(set(rows(shown, task=task)["item"])) for task in set(shown["task"])]
    return panels.finish(
        f"{capitalise(name)} lens at {site} {protocol_phrase(protocol)} "
        f"(n = {count_range(items, 'item')} a task; bands: 95 % over items)",
        "layer (−1: embedding)", [_NAMES[measure] for measure in measures],
    )  # fmt: skip


def _columns(shown: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Capabilities with their tasks, in parts if there are many."""
    columns = []
    for capability in in_order(shown["capability"], CAPABILITY_ORDER):
        tasks = in_order(rows(shown, capability=capability)["task"], ())
        cut = [tasks[i : i + _TASKS_IN_COLUMN] for i in range(0, len(tasks), _TASKS_IN_COLUMN)]
        for i, part in enumerate(cut, start=1):
            count = f" ({i} of {len(cut)})" if len(cut) > 1 else ""
            columns.append((f"{label(str(capability), 14)}{count}", part))
    return columns


def _curve(rows_: pd.DataFrame, measure: str, index: int, seed: int) -> LineSeries:
    if measure == "rank":
        table = median_ranks(rows_)
    else:
        table = bounds_over_items(rows_, ["layer"], measure, seed)
    table = table.assign(n_items=rows_["item"].nunique())
    return series(
        table, measure, look(index), "estimate", ends=("low", "high"),
        label=str(rows_["task"].iloc[0]), every=max(1, len(table) // 12),
        unit="" if measure == "rank" else " nats",
    )  # fmt: skip


def median_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """The median rank at each layer, counted from 1, with its order-statistic interval."""
    # Conover 1999, Practical Nonparametric Statistics, section 3.2; of few items, the whole range.
    wide = table.pivot_table(index="item", columns="layer", values="rank", aggfunc="mean")
    ordered = np.sort(wide.to_numpy(dtype=float), axis=0) + 1
    n = len(ordered)
    lower = int(np.clip(binom.ppf(0.025, n, 0.5) - 1, 0, n - 1))
    bounds = {"low": ordered[lower], "high": ordered[n - 1 - lower]}
    return pd.DataFrame({"layer": wide.columns, "estimate": np.median(ordered, axis=0)} | bounds)


def _scale(axes: Axes, measure: str, drawn: list[LineSeries]) -> None:
    """The scale of a row of panels; an embedding is sure of a wrong token and may lie beyond."""
    if measure == "rank":
        plain_log_scale(axes)
        axes.invert_yaxis()
        return
    inner = [
        series.middle[series.at >= 0] if (series.at >= 0).any() else series.middle
        for series in drawn
    ]
    low, high = (float(f(np.concatenate(inner))) for f in (np.nanmin, np.nanmax))
    margin = 0.06 * ((high - low) or 1.0)
    axes.set_ylim(low - margin, high + margin)


@with_style
def prediction_depth_curves(
    depths: pd.DataFrame, means: pd.DataFrame, width: float = FULL_WIDTH
) -> Figure:
    """The share of right answers that are settled by each depth.

    A panel per lens and protocol. Steps are the cumulative share of items by capability; under them
    the mean depth of each with its interval.

    ``depths`` is the table ``prediction_depth.parquet``; ``means`` is the table
    ``prediction_depth_means``: which tasks have signal, and the means with their intervals.
    """
    capabilities = in_order(means["capability"], CAPABILITY_ORDER)
    groups = [({"capability": name}, look(i), "") for i, name in enumerate(capabilities)]
    shown = parts(means, lens=LENS_ORDER, protocol=PROTOCOL_ORDER)
    panels = Panels(
        [[f"{lens} lens, {protocol_words(protocol)}"] for (lens, protocol), _ in shown], width,
        (1.3, 0.16 * len(capabilities) + 0.1), least=2.9, most=3.45, left=0.9,
    )  # fmt: skip
    for (upper, lower), ((lens, protocol), part) in zip(panels.axes, shown, strict=True):
        _steps(upper, rows(depths, lens=lens, protocol=protocol), part, capabilities)
        drawn = ranges(part, capabilities, "capability", groups, ("depth", "low", "high"), span=0.0)
        draw_ranges(lower, capabilities, drawn)
        for row in records(part):
            # In numbers where there is more room: left of a late mean, right of an early one.
            late = row["depth"] > 0.5
            at = row["low"] if late else row["high"], capabilities.index(row["capability"])
            lower.annotate(
                f"{interval(row['depth'], row['low'], row['high'], digits=2)}, "
                f"n = {row['n_items']}",
                at, xytext=(-5 if late else 5, 0), textcoords="offset points", va="center",
                ha="right" if late else "left",
            )  # fmt: skip
        name_depths(lower)
    panels.axes[0][0].set_xlim(-0.03, 1.03)
    panels.axes[0][0].set_ylim(-0.02, 1.02)
    return panels.finish(
        "Prediction depth: where right answers settle",
        "relative depth (0 = first layer, 1 = last)", ["share of right\nanswers settled"],
    )  # fmt: skip


def _steps(axes: Axes, depths: pd.DataFrame, means: pd.DataFrame, order: list[str]) -> None:
    for row in records(means):
        right = rows(depths, capability=row["capability"], task=row["tasks"].split(","), right=True)
        values = np.sort(numbers(right, "depth"))
        seen, share = look(order.index(row["capability"])), np.arange(1, len(values) + 1)
        axes.step(
            [-0.03, *values, 1.03], [0, *(share / len(values)), 1], where="post",
            color=seen.color, ls=seen.linestyle, lw=1.1, marker=seen.marker, ms=2.8,
            markevery=max(1, len(values) // 5), gid="settled",
        )  # fmt: skip
    name_depths(axes)
    axes.grid(color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
