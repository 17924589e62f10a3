"""Error of a gap between two scoring steps, by how many right answers there are to lose.

Answers are made up: every item is lost by all layers or by none, so a share stands on items.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise.stats.cells import Cell
from layerwise.stats.inference import exact_interval
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.scoring_steps import StepAnswers, step_difference
from layerwise.stats.signals.signal import signals

N_SETS, N_LAYERS, N_ITEMS = 200, 6, 100
RIGHT = (4, 6, 8, 10, 12, 15, 20, 30)
EASY, LOST, FAR = 0.8, 0.4, 0.2
FIRST, SECOND = "first token", "teacher forcing"


def made_up_steps(
    rng: np.random.Generator, right: int, gap: float, n: int = N_ITEMS
) -> tuple[StepAnswers, StepAnswers]:
    """An easy step that loses 40 % of its score, and a hard one with few right answers."""
    easy = rng.random(n) < EASY
    hard = easy & (rng.random(n) < right / n / EASY)
    fragile = rng.random(n)
    return (
        _answers(FIRST, easy, fragile < LOST),
        _answers(SECOND, hard, fragile < LOST + gap),
    )


def _answers(
    step: str, intact: Bool[np.ndarray, " items"], lost: Bool[np.ndarray, " items"]
) -> StepAnswers:
    n = len(intact)
    layers = pd.DataFrame({"layer": range(N_LAYERS), "kind": "skip", "site": "layer"})
    layers["intervention"] = [f"skip:layer={layer}" for layer in range(N_LAYERS)]
    nats: Float[np.ndarray, "items layers"] = np.zeros((n, N_LAYERS))
    correct = np.repeat((intact & ~lost)[:, None], N_LAYERS, axis=1)
    cell = Cell(
        "task", "task", step, layers, intact, correct, nats, nats,
        tuple(f"task/{i:04d}" for i in range(n)), Clusters.singletons(n),
        no_layers=np.zeros(n, dtype=bool),
    )  # fmt: skip
    return StepAnswers(cell, np.zeros(N_LAYERS), intact - cell.floor(0.0))


def gaps(
    rng: np.random.Generator, right: int, gap: float, n_sets: int
) -> tuple[Float[np.ndarray, " sets"], Bool[np.ndarray, " sets"]]:
    """The gap in the share lost and whether it is significant, of data sets with signal."""
    found = []
    while len(found) < n_sets:
        first, second = made_up_steps(rng, right, gap)
        if signals([second.cell], lambda task, step: 0.0)["task", SECOND]:
            shares = first.share(0), second.share(0)
            difference, _, _, p = step_difference(first, second, shares, 0)
            found.append((difference, p < 0.05 and difference > 0))
    return np.array([gap for gap, _ in found]), np.array([sure for _, sure in found])


def gap_rates(n_sets: int = N_SETS, seed: int = 0) -> pd.DataFrame:
    """By right answers and true gap, how often a gap is significant, and how far it is off."""
    rows = []
    for right in RIGHT:
        for gap in (0.0, 0.3):
            rng = np.random.default_rng([seed, right, int(10 * gap)])
            measured, sure = gaps(rng, right, gap, n_sets)
            far = int((np.abs(measured - gap) > FAR).sum())
            interval = exact_interval(far, n_sets)
            rows.append({"right": right, "gap": gap, "sets": n_sets, "significant": int(sure.sum()),
                         "far": far, "rate": far / n_sets, "low": interval.low,
                         "high": interval.high,
                         "mean": measured[sure].mean() if sure.any() else np.nan})  # fmt: skip
    return pd.DataFrame(rows)
