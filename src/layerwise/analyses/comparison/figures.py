"""Figures of ``comparison``, drawn from its saved tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.emergence.figures import METHODS
from layerwise.presentation.charts.heat import (
    LOSS,
    LOST,
    Mark,
    Row,
    Strip,
    cells,
    is_significant,
    share_lost_tooltip,
    strips,
)
from layerwise.presentation.charts.lines import Words, draw_ranges, ranges
from layerwise.presentation.charts.marks import level, points
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.layer_axis import LINE
from layerwise.presentation.naming import NAMES, Stacks
from layerwise.presentation.rows import by_task, numbers, parts, rows
from layerwise.presentation.style import FULL_WIDTH, look, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_range,
    in_order,
    intervention_phrase,
    protocol_phrase,
    protocol_words,
)

from .runs import AXES, MEASURES, UNITS

# Of the two depths of a curve the one that noise moves least.
SHOWN = ("half-effect depth", "prediction depth")
_DEPTH = "relative depth (0 = start, 1 = end)"
# Inches of a point among those of its row, and between rows.
_POINT, _GAP = 0.105, 0.09
_TITLES = {
    "accuracy": "intact accuracy",
    "depth": "depth",
    "share lost": "the share lost by third of the depth",
}


class Block(NamedTuple):
    """A run's block of rows: its name, its layers by stack, and its group, if it has one."""

    name: str
    stacks: Stacks
    group: str | None = None


@with_style
def compared_roles(
    layers: pd.DataFrame, blocks: Sequence[Block], protocol: str, width: float = FULL_WIDTH
) -> Figure:
    """Roles of each layer of each run, by task, from ``comparison_layers``."""
    shown = rows(layers, protocol=protocol)
    tasks = [task for task, _ in by_task(shown)]
    listed = [_strip(rows(shown, run=block.name), block, tasks) for block in blocks]
    panels = strips(listed, width, left=0.3 * width, least=width)
    for axes, block in zip(panels.flat, blocks, strict=True):
        if block.stacks.n_encoder:
            part = block.stacks.n_encoder / block.stacks.n_layers
            axes.axvline(part, **LINE, zorder=4, gid="encoder | decoder")
    first = shown.iloc[0]
    subject = capitalise(intervention_phrase(str(first["kind"]), str(first["site"]), "a layer"))
    items = f"n = {count_range(shown['n_items'], 'item')} a row"
    title = f"{subject}: accuracy lost {protocol_phrase(protocol)} ({items})"
    return panels.finish(title, _DEPTH, bar=LOST)


def _strip(estimates: pd.DataFrame, block: Block, tasks: list[str]) -> Strip:
    n_encoder, n_layers = block.stacks
    sizes = f"{n_layers} layers"
    if n_encoder:
        sizes = f"{n_encoder} {NAMES[0]} | {n_layers - n_encoder} {NAMES[1]} layers"
    lit, marks = rows(estimates, signal=True), [Mark(LOSS, is_significant())]
    # also of a run without signal, which has no row
    edges = np.arange(n_layers + 1) / n_layers
    return Strip(
        [f"{block.name}, {sizes}"],
        tasks,
        cells(lit, "share_lost", ("task", tasks), ("start", edges[:-1].tolist()), marks, _tell),
        [i for i, task in enumerate(tasks) if task not in set(lit["task"])],
        edges=edges,
    )


def _tell(row: Row) -> str:
    return f"{row['run']}, {row['task']}, layer {row['layer']}: {share_lost_tooltip(row)}"


@with_style
def compared_depths(
    estimates: pd.DataFrame, blocks: Sequence[Block], width: float = FULL_WIDTH
) -> Figure:
    """Depths of capabilities in every run, from the depths of ``comparison_estimates``."""
    shown = rows(estimates, family="depth", axis=AXES[0], measure=SHOWN)
    listed = parts(shown, measure=SHOWN, method=METHODS, protocol=PROTOCOL_ORDER)
    capabilities = in_order(shown["capability"], CAPABILITY_ORDER)
    kinds = {block.name: block.group or block.name for block in blocks}
    order = list(dict.fromkeys(kinds.values()))
    groups = [({"run": run}, look(order.index(kind)), kind) for run, kind in kinds.items()]
    panels = Panels(
        [_panel_title(AXES[0], *key) for key, _ in listed], width,
        (len(capabilities) * (_POINT * len(blocks) + _GAP) + 0.1,), least=2.4, left=0.9,
    )  # fmt: skip
    for axes, (_, of_panel) in zip(panels.flat, listed, strict=True):
        drawn = ranges(of_panel, capabilities, "capability", groups)
        draw_ranges(axes, capabilities, drawn, Words(interval="95 % interval"))
        for block, one in zip(blocks, drawn, strict=True):
            n_encoder, n_layers = block.stacks
            at = [n_encoder / n_layers] * len(one.at) if n_encoder else []
            points(axes, at, one.at if n_encoder else [], "|", "decoder begins",
                   "encoder | decoder", color="0.45", zorder=1)  # fmt: skip
    panels.flat[0].set_xlim(-0.02, 1.02)
    items = f"n = {count_range(shown['n_items'], 'item')} a point"
    return panels.finish(f"Depth of capabilities by run (95 % over items, {items})", _DEPTH)


@with_style
def difference_ranges(differences: pd.DataFrame, family: str, width: float = FULL_WIDTH) -> Figure:
    """Differences of one family, second minus first, from ``comparison_differences``."""
    shown = rows(differences, family=family, measure=MEASURES)
    row_of = "tasks" if family == "accuracy" else "capability"
    names = [
        str(name)
        for capability in in_order(shown["capability"], CAPABILITY_ORDER)
        for name in in_order(rows(shown, capability=capability)[row_of], ())
    ]
    pairs = in_order(zip(shown["first"], shown["second"], strict=True), ())
    groups = [
        ({"first": first, "second": second}, look(i), f"{second} minus {first}")
        for i, (first, second) in enumerate(pairs)
    ]
    listed = parts(shown, axis=AXES, measure=MEASURES, method=METHODS, protocol=PROTOCOL_ORDER)
    unit, scale = UNITS[family]
    panels = Panels(
        [_panel_title(*key) for key, _ in listed], width,
        (len(names) * (_POINT * len(pairs) + _GAP) + 0.1,), least=2.1, left=1.1,
    )  # fmt: skip
    words = Words(unsure="hollow: no difference established (Holm)", interval="95 % interval")
    for axes, (_, of_panel) in zip(panels.flat, listed, strict=True):
        level(axes, 0, upright=True)
        drawn = ranges(
            of_panel, names, row_of, groups, ("difference", "low", "high"), scale=scale,
            sure="significant",
        )  # fmt: skip
        draw_ranges(axes, names, drawn, words, longest=18)
    values = scale * np.abs([numbers(shown, name) for name in ("difference", "low", "high")])
    most = 1.08 * max(0.05 * scale, float(np.nanmax(values, initial=0.0)))
    panels.flat[0].set_xlim(-most, most)
    title = f"Differences of {_TITLES[family]}, second minus first (95 % intervals)"
    return panels.finish(title, unit)


def _panel_title(axis: str, measure: str, method: str, protocol: str) -> list[str]:
    """A panel's name: what is measured, and how."""
    within = "" if axis == AXES[0] else f", {axis} alone"
    way = "" if method == "intact model" else f"{method}, "
    return [f"{measure}{within}", f"{way}{protocol_words(protocol)}"]
