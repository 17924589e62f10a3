"""Error rates of claims on a model and one trained from it: called true, or reversed.

Both models answer the same made-up items as in ``published_claims``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analyses.validity.published_claims import (
    N_LAYERS,
    N_RUNS,
    TASKS,
    Damage,
    World,
    falling,
    flat,
    made_up_cells,
    rates_in_world,
)
from layerwise.analyses.replication.verdicts.evidence import Evidence

NAMES = ("song-8", "nepal-1")


class Pair(NamedTuple):
    """Two made-up models, and which verdicts on them are false."""

    name: str
    base: World
    trained: World
    false: Mapping[str, tuple[str, ...]]  # sides by claim


def _own(*layers: int) -> Damage:
    damage = np.zeros(N_LAYERS)
    damage[list(layers)] = 6.0
    return damage


def pairs() -> list[Pair]:
    """Pairs of models that differ in difficulty or fragility alone, or in their layers."""
    order = {task: falling(8.0) for task in TASKS}
    early = {task: _own(1) for task in TASKS} | {"arithmetic": _own(4, 6)}
    late = early | {"arithmetic": _own(9, 11)}
    rng = np.random.default_rng(7)
    one, other = ({task: np.exp(rng.normal(size=N_LAYERS)) * 2 for task in TASKS} for _ in "ab")
    same = {"song-8": ("holds",), "nepal-1": ("opposite",)}
    apart = {"song-8": ("opposite",)}
    return [
        Pair("the same model again", World("", order), World("", order), same),
        Pair("all layers alike in both", World("", {t: flat(2.0) for t in TASKS}),
             World("", {t: flat(2.0) for t in TASKS}), {"nepal-1": ("holds", "opposite")}),
        Pair("the trained model is only better", World("", order),
             World("", order, margin=dict.fromkeys(TASKS, 6.0)), same),
        Pair("the trained model is only more fragile", World("", order),
             World("", order, fragile=dict.fromkeys(TASKS, 2.0)), same),
        Pair("reasoning moved by five layers", World("", early), World("", late), apart),
        Pair("layers of no relation", World("", one), World("", other), {"nepal-1": ("holds",)}),
    ]  # fmt: skip


def _evidence(rng: np.random.Generator, world: World) -> Evidence:
    def chance(task: str, protocol: str) -> float:
        return 0.0 if protocol == "generate" else 0.25

    return Evidence.from_cells(made_up_cells(rng, world), chance, N_LAYERS)


def trained_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate of each verdict on pairs of models, were the claim asked alone."""
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs()):
        rng = np.random.default_rng([seed, 1, number])

        def evidence(rng: np.random.Generator = rng, pair: Pair = pair) -> Evidence:
            return replace(_evidence(rng, pair.base), trained=_evidence(rng, pair.trained))

        false = {name: pair.false.get(name, ()) for name in NAMES}
        rows += rates_in_world(pair.name, evidence, false, n_runs)
    return pd.DataFrame(rows)
