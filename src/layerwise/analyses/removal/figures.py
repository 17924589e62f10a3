"""Figures of ``removal``, drawn from its saved tables alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.presentation.charts.lines import (
    LineSeries,
    Words,
    draw_accuracy,
    draw_series,
    series,
)
from layerwise.presentation.charts.marks import DASHED, DOTTED, level
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.layer_axis import layer_ticks
from layerwise.presentation.lettering import FONT
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import by_task, numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, look, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    in_order,
    protocol_phrase,
    protocol_words,
)

from .tables import BLOCKS, WAYS, removed_label

_SPLITS = {
    SELECTION: (look(1), "items selected by (optimistic)"),
    HELD_OUT: (look(0), "held-out items"),
}
# What an upright label of a step takes along the axis, and the rest of a panel, in inches.
_LABEL, _MARGIN = 0.135, 0.75
NAMES = {
    "greedy": "greedy",
    "block": "best block",
    "effect": "single-layer effect",
    "deep": "from the deep end",
    "angular": "angular distance",
    "influence": "block influence",
}


@with_style
def removal_curve(steps: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Accuracy as layers are removed, by split of the items, from ``removal_steps``."""
    tasks, last = by_task(steps), int(numbers(steps, "step").max())
    needed = min(width, max(2.2, _LABEL * last + _MARGIN))
    panels = Panels([_panel_title(of_task) for _, of_task in tasks], width, (1.5,), least=needed,
                    most=max(3.3, needed), above=0.55)  # fmt: skip
    for axes, (_, of_task) in zip(panels.flat, tasks, strict=True):
        for split, (seen, words) in _SPLITS.items():
            line = rows(of_task, split=split).sort_values(by="step")
            if len(line):
                interval = Words(interval="95 % interval of the loss")
                draw_accuracy(axes, line, split, seen, interval, x="step", label=words)
        _name_steps(axes, of_task, panels.room)
    _over_steps(panels, last, (-3.0, 103.0))
    first = steps.iloc[0]
    blocks = first["by"] in BLOCKS
    how = "without the best block of each size" if blocks else "as layers are removed one by one"
    title = f"Accuracy {protocol_phrase(first['protocol'])}, {how}"
    return panels.finish(title, "layers removed", ["accuracy (%)"])


def _over_steps(panels: Panels, last: int, limits: tuple[float, float]) -> None:
    axes = panels.flat[0]
    axes.set(xlim=(-0.5, last + 0.5), ylim=limits)
    axes.set_xticks(layer_ticks(range(last + 1), panels.room, 0.24))


def _name_steps(axes: Axes, of_task: pd.DataFrame, room: float) -> None:
    """Layers that each step removed, upright along the upper edge."""
    steps = rows(of_task, split=SELECTION).sort_values(by="step")
    names = {int(row["step"]): removed_label(row["by"], row["layers"], name_layer)
             for row in records(steps)}  # fmt: skip
    shown = layer_ticks(names, room, _LABEL)
    upper = axes.secondary_xaxis("top")
    upper.set_xticks(shown, [names[step] for step in shown], rotation=90, fontsize=FONT)
    upper.tick_params(length=0, pad=3.0)
    upper.set_gid("removed")
    noun = "block" if steps["by"].iloc[0] in BLOCKS else "layer"
    upper.set_xlabel(f"{noun} removed", fontsize=FONT, labelpad=2)


def _panel_title(of_task: pd.DataFrame) -> list[str]:
    there = [of_task.loc[of_task["split"] == split].iloc[0] for split in _SPLITS
             if split in set(of_task["split"])]  # fmt: skip
    counts = [f"{row['split']} n = {row['n_items']}" for row in there]
    dull = [f"no signal: {row['split']}" for row in there if not row["signal"]]
    return [str(of_task["task"].iloc[0]), ", ".join(counts), *dull]


@with_style
def removal_orders(curves: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The above-floor accuracy left on held-out items, from ``removal_curves``."""
    protocols = in_order(curves["protocol"], PROTOCOL_ORDER)
    shown = [
        (capability, protocol, rows(curves, capability=capability, protocol=protocol))
        for capability in in_order(curves["capability"], CAPABILITY_ORDER)
        for protocol in protocols
    ]
    titles = [
        [capability, f"{way}, n = {curve['n_items'].iloc[0]}" if len(curve) else
         f"{way}: no signal"]
        for capability, protocol, curve in shown for way in [protocol_words(protocol)]
    ]  # fmt: skip
    least = min(width, max(1.5, 3.3 / len(protocols)))
    panels = Panels(titles, width, (0.9,), least=least, most=2.3, left=0.8)
    words = Words("filled: significant loss", interval="95 % interval")
    for axes, (_, _, curve) in zip(panels.flat, shown, strict=True):
        level(axes, 100, ls=DOTTED)
        level(axes, 0, ls=DASHED, label="floor", color="0.35")
        lines = (rows(curve, by=by).sort_values(by="step") for by in in_order(curve["by"], WAYS))
        draw_series(axes, [_remaining_score(line) for line in lines], words)
    _over_steps(panels, int(numbers(curves, "step").max()), (-30.0, 125.0))
    title = "Removal of layers in different orders, held-out items (bands: 95 %)"
    return panels.finish(title, "layers removed", ["accuracy above\nfloor left (%)"])


def _remaining_score(line: pd.DataFrame) -> LineSeries:
    """Score that is left along an order, from the intact model on."""
    by, intact = str(line["by"].iloc[0]), {"step": 0, "left": 1.0, "low": 1.0, "high": 1.0}
    named = {"left": "share_lost", "low": "share_high", "high": "share_low"}
    left = line.assign(**{name: 1 - line[of] for name, of in named.items()})
    left["sure"] = line["significant"].astype(bool) & (line["share_lost"] > 0)
    whole = pd.concat([pd.DataFrame([intact | {"sure": False}]), left], ignore_index=True)
    return series(
        whole, f"left {by}", look(WAYS.index(by)), "left", x="step", ends=("low", "high"),
        scale=100, unit=" % left", sure="sure", label=NAMES[by],
    )  # fmt: skip
