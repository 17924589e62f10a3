"""Coverage of intervals of depths by ablation, and level of tests of order.

A grid of simulated models (``depth_cases``): few and many items and layers, one or several or
all of them needed, much or little, with answers that flip in layers which are not needed. What
was tried before and beside the estimator in use is in ``depth_candidates``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from depth_cases import (
    INDEPENDENT,
    MARGINAL,
    SHAPES,
    Case,
    Effects,
    answers,
    scale_effects,
    true_centre,
    true_half,
)

from layerwise import stats
from layerwise.stats.depth.depth_inference import (
    CENTRE,
    HALF,
    Axis,
    depth_bounds,
    depth_p_value,
    same_depth_p_value,
)
from layerwise.stats.depth.depths import cumulative_share, half_depth
from layerwise.stats.depth.item_curves import ItemCurves, losses_by_item
from layerwise.stats.effects import ALPHA

SETS = 300
ITEMS = (20, 40, 100, 200)
FLIPS = (0.0, 0.05, 0.1, 0.15)
# The same depth in truth: single layers needed more and less, layers around it, all layers.
SAME: dict[int, dict[str, tuple[Effects, Effects]]] = {
    8: {
        "one, one": ({2: 1.0}, {2: 0.4}),
        "one, two around": ({2: 1.0}, {1: 0.5, 3: 0.5}),
        "one, spread": ({4: 1.0}, {layer: 0.2 for layer in range(1, 8)}),
        "several, several": ({1: 1.0, 5: 0.6}, {1: 0.5, 5: 0.3}),
    },
    30: {
        "one, one": ({2: 1.0}, {2: 0.5}),
        "one, spread": ({14: 1.0}, {layer: 0.1 for layer in range(29)}),
        "several, several": ({2: 1.0, 9: 0.5, 20: 0.4}, {2: 0.5, 9: 0.25, 20: 0.2}),
        "two, two": ({2: 1.0, 3: 1.0}, {2: 0.4, 3: 0.4}),
    },
}
OTHER: dict[int, dict[str, tuple[Effects, Effects]]] = {
    8: {"one, 3 layers on": ({2: 1.0}, {5: 0.6})},
    30: {
        "one, 18 layers on": ({2: 1.0}, {20: 0.6}),
        "four, 18 layers on": (dict.fromkeys(range(2, 6), 1.0), dict.fromkeys(range(20, 24), 1.0)),
    },
}


def intervals(sets: int = SETS, items: Sequence[int] = ITEMS) -> pd.DataFrame:
    """One row per cell: how often the true depth is not rejected, and is told.

    Args:
        sets: simulated data sets per cell.
        items: numbers of items.

    Returns:
        ``layers``, ``shape``, ``items``, ``effect``, ``flips``, ``accuracy``, ``noise``, ``sets``,
        ``covered`` and ``covered_centre`` (number of sets), ``told`` (sets in which a depth is
        told: a layer is significant, and more is lost than gained), ``told_covered``,
        ``error`` (median distance of the estimate, layers), ``width`` (median of 40 intervals).
    """
    rows = []
    for n_layers, shapes in SHAPES.items():
        settings = product(shapes.items(), items, (0.3, 1.0), FLIPS, (0.6, 0.8, 0.95), _NOISES)
        for (shape, effects), n, effect, flips, accuracy, noise in settings:
            case = Case(n_layers, n, scale_effects(effects, effect), flips, accuracy, noise)
            if case.possible and (flips or noise == INDEPENDENT):
                cell = {"layers": n_layers, "shape": shape, "items": n, "effect": effect}
                cell |= {"flips": flips, "accuracy": accuracy, "noise": noise, "sets": sets}
                rows.append(cell | _coverage(case, sets))
    return pd.DataFrame(rows)


_NOISES = (INDEPENDENT, MARGINAL)


def orders(sets: int = SETS, sizes: Sequence[tuple[int, int]] | None = None) -> pd.DataFrame:
    """One row per pair of models or capabilities: how often their depths are called different.

    Args:
        sets: simulated data sets per cell.
        sizes: numbers of items of both.

    Returns:
        ``layers``, ``pair``, ``apart`` (true difference, layers), ``paired`` (two models on the
        same items; otherwise two capabilities), ``items``, ``other_items``, ``flips``,
        ``other_flips``, ``accuracy``, ``other_accuracy``, ``noise``, ``sets``, ``rejected``
        (p < 0.05), ``told`` (both depths are told), ``told_rejected``.
    """
    rows = []
    for table, paired in product((SAME, OTHER), (False, True)):
        for n_layers, pairs in table.items():
            noisy, asked = (_FLIPS, _ASKED) if table is SAME else _POWER
            settings = product(pairs.items(), sizes or _SIZES, noisy, asked)
            for (name, pair), ns, flips, (noise, accuracy) in settings:
                cases = [
                    Case(n_layers, *of, noise) for of in zip(ns, pair, flips, accuracy, strict=True)
                ]
                if (paired and ns[0] != ns[1]) or not all(case.possible for case in cases):
                    continue
                cell = {"layers": n_layers, "pair": name, "paired": paired, "noise": noise}
                cell |= {"sets": sets, "apart": _depth_gap(pair, n_layers)}
                for prefix, case in zip(("", "other_"), cases, strict=True):
                    cell |= {f"{prefix}items": case.n, f"{prefix}flips": case.flips}
                    cell |= {f"{prefix}accuracy": case.accuracy}
                rows.append(cell | _rejections(cases, paired=paired, sets=sets))
    return pd.DataFrame(rows)


_SIZES = ((20, 20), (40, 40), (100, 100), (200, 40))
_FLIPS = ((0.0, 0.15), (0.02, 0.1))
_ALIKE, _EASY = (0.8, 0.8), (0.95, 0.6)
_ASKED = ((INDEPENDENT, _ALIKE), (INDEPENDENT, _EASY), (MARGINAL, _EASY))
_POWER = (((0.02, 0.02), (0.1, 0.1)), ((INDEPENDENT, _ALIKE), (MARGINAL, _ALIKE)))


def worst_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The cells that are covered least, or those of the same depth that are told apart most."""
    if "covered" in table:
        rate = table["covered"] / table["sets"]
        return table.assign(rate=rate).sort_values(by="rate").head(8)
    same = table.loc[table["apart"] == 0]
    return same.assign(rate=same["rejected"] / same["sets"]).sort_values(by="rate").tail(8)


def is_told(curves: ItemCurves) -> bool:
    """True if emergence would claim a depth: a significant loss, and more lost than gained."""
    lost = np.diff(curves.values, axis=1)
    down, up = (lost > 0).sum(axis=0), (lost < 0).sum(axis=0)
    sure = (stats.holm(stats.mcnemar_p_values(down, up)) < ALPHA) & (down > up)
    return bool(sure.any() and lost.sum() > 0)


def simulate_curves(rng: np.random.Generator, case: Case, hard: Any = None) -> ItemCurves:
    """One data set as curves item by item."""
    intact, after = answers(rng, case, hard)
    return losses_by_item(intact.astype(float), after.astype(float), case.chance)


def _generator(*cases: Case) -> np.random.Generator:
    return stats.generator(0, *map(str, cases))


def _coverage(case: Case, sets: int) -> dict[str, Any]:
    rng = _generator(case)
    half, centre = true_half(case.effects, case.n_layers), true_centre(case.effects, case.n_layers)
    found: dict[str, list[float]] = {
        name: [] for name in ("covered", "covered_centre", "told", "told_covered")
    }
    errors, widths = [], []
    for number in range(sets):
        curves = simulate_curves(rng, case)
        covered = depth_p_value([curves], HALF, half) >= ALPHA
        shown = is_told(curves)
        found["covered"].append(covered)
        found["covered_centre"].append(depth_p_value([curves], CENTRE, centre) >= ALPHA)
        found["told"].append(shown)
        found["told_covered"].append(shown and covered)
        importance = np.diff(curves.values.mean(axis=0))
        errors.append(half_depth(cumulative_share(importance[None]))[0] - half)
        if number < _WIDTHS:
            low, high = depth_bounds([curves], HALF)
            widths.append(high - low)
    known = [error for error in errors if not np.isnan(error)]
    middle = {"error": np.median(known) if known else np.nan, "width": np.median(widths)}
    return {name: int(np.sum(values)) for name, values in found.items()} | middle


_WIDTHS = 15


def _rejections(cases: Sequence[Case], *, paired: bool, sets: int) -> dict[str, int]:
    rng, n_layers = _generator(*cases), cases[0].n_layers
    axis = Axis(n_layers, 0.0, n_layers - 1.0)
    rejected, shown = [], []
    for one, other in _pairs(rng, cases, paired=paired, sets=sets):
        p = same_depth_p_value([one], [other], (axis, axis), paired=paired)
        rejected.append(p < ALPHA)
        shown.append(is_told(one) and is_told(other))
    both = int(np.sum(np.array(rejected) & np.array(shown)))
    return {"rejected": int(np.sum(rejected)), "told": int(np.sum(shown)), "told_rejected": both}


def _pairs(
    rng: np.random.Generator, cases: Sequence[Case], *, paired: bool, sets: int
) -> Iterator[tuple[ItemCurves, ItemCurves]]:
    for _ in range(sets):
        hard = rng.random(cases[0].n) if paired else None
        one, other = (simulate_curves(rng, case, hard) for case in cases)
        yield one, other


def _depth_gap(pair: tuple[Effects, Effects], n_layers: int) -> float:
    first, second = (true_half(effects, n_layers) for effects in pair)
    return 0.0 if pair in SAME[n_layers].values() else second - first
