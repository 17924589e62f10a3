"""Estimators of a depth by ablation that were tried, on the cells where they come apart.

Two capabilities whose true half-effect depth is the same are simulated (``depth_cases``), with
unequal noise or effect. Each estimator says where both are, how surely, and whether they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from depth_cases import MARGINAL, Case, answers, true_half
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.stats.depth.depth_inference import HALF, Axis, depth_p_value, same_depth_p_value
from layerwise.stats.depth.depths import cumulative_share, half_depth
from layerwise.stats.depth.item_curves import losses_by_item
from layerwise.stats.effects import ALPHA
from layerwise.stats.inference import two_sided_p

CELLS: dict[str, tuple[Case, Case]] = {
    "one of 30, n = 40, loss 100 and 60 %, flips 0 and 15 %": (
        Case(30, 40, {2: 1.0}, 0.0, 0.8), Case(30, 40, {2: 0.6}, 0.15, 0.8),
    ),
    "one of 30, n = 100, loss 100 and 50 %, flips 2 and 10 %": (
        Case(30, 100, {2: 1.0}, 0.02, 0.8), Case(30, 100, {2: 0.5}, 0.1, 0.8),
    ),
    "the same, the same items flip in all layers": (
        Case(30, 100, {2: 1.0}, 0.02, 0.8, MARGINAL), Case(30, 100, {2: 0.5}, 0.1, 0.8, MARGINAL),
    ),
    "several of 30, n = 100, once half as much, flips 2 and 10 %": (
        Case(30, 100, {2: 1.0, 9: 0.5, 20: 0.4}, 0.02, 0.8),
        Case(30, 100, {2: 0.5, 9: 0.25, 20: 0.2}, 0.1, 0.8),
    ),
    "one, and one between 20 that cost 5 % each and one that costs 100 %, n = 100": (
        Case(30, 100, {25: 1.0}, 0.02, 0.8),
        Case(30, 100, {**dict.fromkeys(range(20), 0.05), 25: 0.3, 27: 1.0}, 0.02, 0.8),
    ),
    "all of 30 alike, and one, n = 200, flips 5 %": (
        Case(30, 200, dict.fromkeys(range(29), 0.1), 0.05, 0.8),
        Case(30, 200, {14: 1.0}, 0.05, 0.8),
    ),
}  # fmt: skip
SETS, RESAMPLES = 100, 200
Counts = Int[np.ndarray, "draws layers"]
Importance = Float[np.ndarray, "draws layers"]


def measure(sets: int = SETS, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per cell and estimator.

    Args:
        sets: simulated data sets per cell.
        resamples: bootstrap samples of those that are resampled.

    Returns:
        ``cell``, ``estimator``, ``sets``, ``covered``, ``other_covered`` (sets whose 95 % interval
        holds the true depth of the one and of the other), ``different`` (p < 0.05), ``error``,
        ``other_error`` (median distance from the truth, layers).
    """
    rows = []
    for cell, cases in CELLS.items():
        rng = stats.generator(0, cell)
        truths = [true_half(case.effects, case.n_layers) for case in cases]
        drawn = [[_right(rng, case) for case in cases] for _ in range(sets)]
        for name, estimate in ESTIMATORS.items():
            draws = np.array(
                [
                    [_resampled_depths(rng, right, estimate, resamples) for right in pair]
                    for pair in drawn
                ]
            )
            rows.append({"cell": cell, "estimator": name, "sets": sets} | _rates(draws, truths))
        inverted = [_invert_tests(pair, cases, truths) for pair in drawn]
        sums = {name: int(np.sum([each[name] for each in inverted])) for name in inverted[0]}
        (signed,) = (row for row in rows if (row["cell"], row["estimator"]) == (cell, SIGNED))
        errors = {name: signed[name] for name in ("error", "other_error")}
        rows.append({"cell": cell, "estimator": INVERTED, "sets": sets} | sums | errors)
    return pd.DataFrame(rows)


def _right(rng: np.random.Generator, case: Case) -> Float[np.ndarray, "items columns"]:
    intact, after = answers(rng, case)
    return np.column_stack([intact, after]).astype(float)


def _clip_losses(down: Counts, up: Counts, n: int) -> Importance:
    return np.maximum(down - up, 0) / n


def _signed_losses(down: Counts, up: Counts, n: int) -> Importance:
    return (down - up) / n


def _significant(down: Counts, up: Counts, n: int) -> Importance:
    sure = (stats.holm(stats.mcnemar_p_values(down, up)) < ALPHA) & (down > up)
    return np.where(sure, down - up, 0) / n


INVERTED, SIGNED = "signed, inverted test (in use)", "signed, bootstrap"
CROSSED = "significant in one half, cross-fitted"
ESTIMATORS: dict[str, Callable[[Counts, Counts, int], Importance] | None] = {
    "clipped at 0 (earlier versions)": _clip_losses,
    SIGNED: _signed_losses,
    "significant layers alone": _significant,
    CROSSED: None,
}


def _resampled_depths(
    rng: np.random.Generator,
    right: Float[np.ndarray, "items columns"],
    estimate: Callable[[Counts, Counts, int], Importance] | None,
    resamples: int,
) -> Float[np.ndarray, " draws"]:
    """Half-effect depths of the sample (row 0) and of resamples."""
    lost = right[:, :1] - right[:, 1:]
    if estimate is not None:
        return half_depth(cumulative_share(estimate(*_counts(rng, lost, resamples), len(lost))))
    halves = [_counts(rng, part, resamples) for part in (lost[::2], lost[1::2])]
    found = np.zeros((resamples + 1, lost.shape[1]))
    for (down, up), (others_down, others_up) in (halves, halves[::-1]):
        chosen = _significant(down, up, len(lost)) > 0
        found += np.where(chosen, others_down - others_up, 0) / len(lost)
    return half_depth(cumulative_share(found))


def _counts(rng: np.random.Generator, lost: np.ndarray, resamples: int) -> tuple[Counts, Counts]:
    n = len(lost)
    times = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), resamples)])
    down, up = (np.rint(times @ side).astype(int) for side in (lost > 0, lost < 0))
    return down, up


def _rates(draws: Float[np.ndarray, "sets 2 draws"], truths: Sequence[float]) -> dict[str, Any]:
    low, high = np.nanquantile(draws[:, :, 1:], [0.025, 0.975], axis=2)
    known = np.where(np.isnan(low), False, (low <= np.array(truths) + 1e-9))
    covered = known & (high >= np.array(truths) - 1e-9)
    apart = draws[:, 1, 1:] - draws[:, 0, 1:]
    different = [two_sided_p(each[~np.isnan(each)]) < ALPHA for each in apart]
    errors = np.nanmedian(draws[:, :, 0] - np.array(truths), axis=0)
    return {
        "covered": int(covered[:, 0].sum()),
        "other_covered": int(covered[:, 1].sum()),
        "different": int(np.sum(different)),
        "error": float(errors[0]),
        "other_error": float(errors[1]),
    }


def _invert_tests(
    pair: Sequence[np.ndarray], cases: Sequence[Case], truths: Sequence[float]
) -> dict[str, bool]:
    curves = [losses_by_item(right[:, 0], right[:, 1:], case.chance)
              for right, case in zip(pair, cases, strict=True)]  # fmt: skip
    axis = Axis(cases[0].n_layers, 0.0, cases[0].n_layers - 1.0)
    held = [depth_p_value([c], HALF, t) >= ALPHA for c, t in zip(curves, truths, strict=True)]
    p = same_depth_p_value([curves[0]], [curves[1]], (axis, axis), paired=False)
    return {"covered": held[0], "other_covered": held[1], "different": p < ALPHA}
