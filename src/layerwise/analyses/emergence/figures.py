"""Figures of ``emergence``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.shared.lens_names import LENS_ORDER
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.charts.lines import Words, draw_ranges, draw_series, ranges, series
from layerwise.presentation.charts.marks import level, points
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.layer_axis import name_depths
from layerwise.presentation.lettering import label
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import parts, records, rows
from layerwise.presentation.style import FULL_WIDTH, look, protocol_look, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    count_range,
    in_order,
    p_value,
    protocol_words,
)

METHODS = (
    "ablation",
    *(f"{lens} lens" for lens in LENS_ORDER),
    "activation patching",
    "direct attribution",
)
_ORDERS = {"axis": (COMPUTATION, ENCODER, DECODER), "method": METHODS, "protocol": PROTOCOL_ORDER}
DEPTHS = ("half-effect depth", "centre of mass")
SETTLED = "prediction depth"
# Inches of a row, by how many points it has.
_ROW, _ROW_OF_TWO = 0.165, 0.24
_MEASURES = {
    "half-effect depth": "difference of half-effect depth",
    "rank correlation": "rank correlation over layers",
}
_MOST = 150.0


@with_style
def emergence_ranges(emergence: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Depths of capabilities by method, protocol and measure, from ``emergence``."""
    capabilities = in_order(emergence["capability"], CAPABILITY_ORDER)
    measures = in_order(rows(emergence, measure=DEPTHS)["measure"], DEPTHS) or list(DEPTHS[:1])
    settled, groups = rows(emergence, measure=SETTLED), parts(emergence, **_ORDERS)
    plan = [(*key, measure, of_panel) for key, of_panel in groups for measure in measures]
    plan += [(*key, SETTLED, of_panel) for key, of_panel in parts(settled, **_ORDERS)]
    titles = [
        [f"{'' if axis == COMPUTATION else axis + ', '}{method}, {way}: {measure}"]
        for axis, method, protocol, measure, _ in plan
        for way in [protocol_words(protocol)]
    ]
    height = _ROW * len(capabilities) + 0.1
    panels = Panels(titles, width, (height,), least=2.4, left=0.9)
    looks = [({"capability": capability}, look(i), "") for i, capability in enumerate(capabilities)]
    for axes, (axis, _, _, measure, of_panel) in zip(panels.flat, plan, strict=True):
        depths = rows(of_panel, measure=measure)
        drawn = ranges(depths, capabilities, "capability", looks, span=0.0)
        draw_ranges(axes, capabilities, drawn, Words(interval="95 % interval"))
        for row in records(rows(of_panel, measure="critical set")):
            at, set_of = np.empty(0), row["layers"]
            if set_of is not None and len(set_of):
                # the size is there in layers and as a share of them, which gives their number
                n_layers = round(float(row["layer"] / row["estimate"]))
                first = stacks().n_encoder * int(row["axis"] == DECODER)
                at = (np.asarray(set_of, dtype=float) - first) / max(1, n_layers - 1)
            points(axes, at, np.full(len(at), capabilities.index(row["capability"])), "|",
                   "critical", "layer of critical set", color="0.55", zorder=1)  # fmt: skip
        if axis == COMPUTATION:
            name_depths(axes)
    panels.flat[0].set_xlim(-0.03, 1.03)
    whole = COMPUTATION in set(emergence["axis"])
    first, within = ("layer", "") if whole else ("layer of the stack", " within each stack")
    items = f"n = {count_range(emergence['n_items'], 'item')} a point"
    return panels.finish(
        f"Where capabilities emerge{within} (95 % intervals over items, {items})",
        f"relative depth (0 = first {first}, 1 = last)",
    )


@with_style
def agreement_ranges(agreement: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Differences of depth and rank correlations of methods, from ``method_agreement``."""
    capabilities = in_order(agreement["capability"], CAPABILITY_ORDER)
    groups = [
        ({"protocol": protocol}, protocol_look(protocol), label(protocol_words(protocol), 14))
        for protocol in in_order(agreement["protocol"], PROTOCOL_ORDER)
    ]
    pairs = in_order(zip(agreement["first"], agreement["second"], strict=True), ())
    plan = [(measure, pair) for measure in _MEASURES for pair in pairs]
    by_rank, below = agreement["measure"] == "rank correlation", agreement["p_holm"] < 0.05
    agreement = agreement.assign(sure=agreement["significant"].mask(by_rank, below))
    panels = Panels(
        [[_MEASURES[measure], " and ".join(pair)] for measure, pair in plan], width,
        (_ROW_OF_TWO * len(capabilities) + 0.1,), least=2.2, left=0.9,
    )  # fmt: skip
    words = Words(unsure="hollow: not different from 0 (Holm)", interval="95 % interval")
    for axes, (measure, (first, second)) in zip(panels.flat, plan, strict=True):
        of_pair = rows(agreement, first=first, second=second, measure=measure)
        level(axes, 0, upright=True)
        drawn = ranges(of_pair, capabilities, "capability", groups, span=0.5, sure="sure")
        draw_ranges(axes, capabilities, drawn, words)
    panels.flat[0].set_xlim(-1.08, 1.08)
    return panels.finish(
        "Do methods agree? (95 % intervals over items)", "correlation, or second minus first depth"
    )


@with_style
def interaction_profiles(interaction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The share lost by group of layers and protocol, from ``protocol_interaction``."""
    shown = [part for _, part in parts(interaction, capability=(), first=(), second=())]
    titles = [
        [f"{profile['capability'].iloc[0]}, n = {profile['n_items'].iloc[0]}",
         f"{p_value(profile['p_holm'].iloc[0])} (Holm)"]
        for profile in shown
    ]  # fmt: skip
    # three abreast where they fit, so that each capability has its row
    pairs = {tuple(pair) for pair in interaction[["first", "second"]].to_numpy()}
    three = len(pairs) == 3 < len(shown) and width >= 3 * 2.2
    panels = Panels(titles, width, least=2.2 if three else 1.6, left=0.8)
    for axes, profile in zip(panels.flat, shown, strict=True):
        differ = profile.assign(sure=bool((profile["p_holm"] < 0.05).all()))
        x = np.arange(len(profile), dtype=float)
        level(axes, 0)
        drawn = [
            series(
                differ, f"share {name}", protocol_look(name), f"share_{which}", x="group",
                at=x + shift, scale=100, unit=" % lost per layer", sure="sure",
                ends=(f"share_{which}_low", f"share_{which}_high"), band=False,
                label=protocol_words(name),
            )
            for which, shift in (("first", -0.07), ("second", 0.07))
            for name in [str(profile[which].iloc[0])]
        ]  # fmt: skip
        draw_series(axes, drawn, Words("filled: profiles differ", interval="95 % interval"))
        axes.set_xticks(x, [label(str(name), 8) for name in profile["group"]])
        axes.set_xlim(-0.4, len(profile) - 0.6)
    low, high = panels.flat[0].get_ylim()
    panels.flat[0].set_ylim(max(low, 100 - _MOST), min(high, _MOST))
    title = "Does it depend on the way of scoring where the loss is? (95 % intervals)"
    return panels.finish(title, y=["above-floor accuracy\nlost per layer (%)"])
