"""Small simulations of corrections that docs/statistics/effects.md names, left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from layer_claims import CHANCE, SMALLEST, MadeUpCapability, made_up_cells, profile

from layerwise.stats.capability_layers import layer_estimates, pools
from layerwise.stats.cells import Cell
from layerwise.stats.depth.depth_inference import HALF, depth_bounds
from layerwise.stats.depth.item_curves import losses_by_item
from layerwise.stats.inference import exact_interval, holm
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.signals.signal import signals

N_RUNS, N_SKEWED = 40, 20_000
CHOSEN = "an uncorrected choice of tasks with signal gives a false claim"
REPORTED, FALSE_DEPTH = "a depth is reported", "the interval of a reported depth is false"
T_TEST = "a t-test calls a mean loss of 0.1 nats small"
N_LAYERS, NEEDED, N_CAPABILITIES, PROTOCOLS = 12, 2, 8, 3


def rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate of each event: one row for each statement and case."""
    found = [*chosen_tasks(n_runs, seed), *weak_depths(n_runs, seed), *small_means(seed)]
    rows = []
    for what, case, n_times, n_cases in found:
        interval = exact_interval(n_times, n_cases)
        rate = {"rate": interval.estimate, "low": interval.low, "high": interval.high}
        rows.append({"what": what, "case": case, "times": n_times, "of": n_cases} | rate)
    return pd.DataFrame(rows)


def chosen_tasks(n_runs: int, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """A model right in 36 % that needs no layer; each layer makes all answers anew."""
    for n_tasks in (1, 3):
        rng, false = np.random.default_rng([seed, n_tasks]), 0
        asked = [MadeUpCapability((profile(),) * n_tasks, 100, 0.36, 3, 2 * 0.36 * 0.64, 0.0)] * 4
        for _ in range(n_runs):
            cells = made_up_cells(rng, asked)
            signal = signals(cells, lambda task, protocol: CHANCE)
            floors = {key: np.full(100, CHANCE) for key in signal}
            known = [pool._replace(n_choices=1) for pool in pools(cells, signal, floors)]
            table = layer_estimates(known, len(asked), SMALLEST)
            false += bool(len(table) and table["established"].any())
        yield CHOSEN, f"{3 * n_tasks} pairs of task and protocol a capability", false, n_runs


def weak_depths(n_runs: int, seed: int) -> Iterator[tuple[str, str, int, int]]:
    """A model that hardly knows the answers and needs layer 2; each layer makes all anew."""
    for right in (0.33, 0.36, 0.4, 0.45):
        rng, told, missed = np.random.default_rng([seed, round(100 * right)]), 0, 0
        for _ in range(n_runs):
            cells = [_redrawn(rng, f"{i}", f"{k}", right)
                     for i in range(N_CAPABILITIES) for k in range(PROTOCOLS)]  # fmt: skip
            signal = signals(cells, lambda task, protocol: CHANCE)
            for cell in cells:
                p = holm(paired_p_values(cell.net, cell.clusters))
                lost = (cell.intact[:, None] - cell.correct.astype(float)).mean(axis=0)
                if not signal[cell.task, cell.protocol] or not (p[lost > 0] < 0.05).any():
                    continue
                if lost.sum() <= 0:
                    continue
                curves = losses_by_item(cell.intact.astype(float), cell.correct.astype(float),
                                        CHANCE)  # fmt: skip
                low, high = depth_bounds([curves], HALF)
                told, missed = told + 1, missed + (not low <= NEEDED <= high)
        n_cases, case = n_runs * N_CAPABILITIES * PROTOCOLS, f"right in {100 * right:.0f} %"
        yield REPORTED, case, told, n_cases
        yield FALSE_DEPTH, case, missed, n_cases


def _redrawn(rng: np.random.Generator, capability: str, protocol: str, right: float) -> Cell:
    (cell,) = made_up_cells(rng, [MadeUpCapability((profile(),), 100, right, 1)])
    correct = rng.random((100, N_LAYERS)) < right
    correct[:, NEEDED] = rng.random(100) < CHANCE
    changes = pd.DataFrame({"layer": np.arange(N_LAYERS)})
    nothing = np.zeros(correct.shape)
    return cell._replace(
        capability=capability, task=capability, protocol=protocol, interventions=changes,
        correct=correct, nats=nothing, margins=nothing,
    )  # fmt: skip


def small_means(seed: int) -> Iterator[tuple[str, str, int, int]]:
    """Losses of 40 items with a long tail, whose mean is just what matters."""
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(seed)
    losses = rng.gamma(0.3, 0.1 / 0.3, size=(N_SKEWED, 40))
    p = np.asarray(ttest_1samp(losses, 0.1, axis=1, alternative="less")[1])
    for level in (0.05, 0.002):
        yield T_TEST, f"at {100 * level:g} %", int((p < level).sum()), N_SKEWED
