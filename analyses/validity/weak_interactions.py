"""Rates at which a model that hardly knows the answers is said to have layers that interact.

All answers are drawn anew under every set of layers, so no two layers have to do with each other.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from layerwise.analyses.interactions.tables import pairs_table, signal_from_interactions
from layerwise.stats.inference import exact_interval

N_RUNS, N_TASKS, N_LAYERS, N_ITEMS = 40, 9, 12, 100
PROTOCOLS = ("letter", "continuation", "generate")
CHANCE, LEVEL = 0.25, 0.05
SINGLES = tuple((layer,) for layer in range(N_LAYERS))
SETS = (*SINGLES, *combinations(range(N_LAYERS), 2))


def chance(task: str, protocol: str) -> float:
    """The share of right answers by guessing."""
    return CHANCE


def simulate_records(
    rng: np.random.Generator, task: str, protocol: str, name: str, layers: list[int], right: float
) -> pd.DataFrame:
    """Records of one set of layers: each item is right with the same chance, whatever the set."""
    return pd.DataFrame(
        {
            "intervention": name,
            "site": "layer" if layers else None,
            "layers": [layers] * N_ITEMS,
            "heads": None,
            "task": task,
            "capability": task,
            "item": [f"{task}/{i:04d}" for i in range(N_ITEMS)],
            "protocol": protocol,
            "correct": rng.random(N_ITEMS) < right,
            "gold_logprob": np.nan,
            "margin": np.nan,
        }
    )


def simulate_run(rng: np.random.Generator, right: float) -> pd.DataFrame:
    """A run's records: every task and protocol intact, and all sets where there is signal."""
    parts = []
    for task in (f"task {i}" for i in range(N_TASKS)):
        for protocol in PROTOCOLS:
            parts += [simulate_records(rng, task, protocol, "intact", [], right),
                      simulate_records(rng, task, protocol, "no layers", [], CHANCE)]  # fmt: skip
    signal = signal_from_interactions(pd.concat(parts, ignore_index=True), chance)
    for row in signal.loc[signal["signal"]].to_dict("records"):
        parts += [
            simulate_records(rng, row["task"], row["protocol"],
                     f"skip:layers={'+'.join(map(str, layers))}", list(layers), right)
            for layers in SETS
        ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """By accuracy, in how many tables and runs some pair is significant, in accuracy."""
    rows = []
    for right in (0.33, 0.4):
        rng = np.random.default_rng([seed, int(100 * right)])
        counts = {"runs": 0, "tables": 0, "in_table": 0, "over_run": 0}
        for number in range(n_runs):
            pairs = pairs_table(simulate_run(rng, right), chance, number)
            tables = pairs.groupby(["task", "protocol"])
            counts["runs"] += 1
            counts["tables"] += tables.ngroups
            counts["in_table"] += sum(bool((part["p_bh"] < LEVEL).any()) for _, part in tables)
            counts["over_run"] += bool((pairs["p_run"] < LEVEL).any())
        within = exact_interval(counts["in_table"], max(counts["tables"], 1))
        over = exact_interval(counts["over_run"], n_runs)
        rows.append({"right": right, **counts, "rate": within.estimate, "low": within.low,
                     "high": within.high, "run_rate": over.estimate, "run_low": over.low,
                     "run_high": over.high})  # fmt: skip
    return pd.DataFrame(rows)
