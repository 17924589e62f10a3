"""Error rates of claims on sets of heads: called true, or reversed.

Answers without sets of heads are made up, as in ``published_claims`` those without layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analyses.validity.published_claims import N_LAYERS, N_RUNS, TASKS, rates_in_world
from layerwise.analyses.replication.verdicts.evidence import Evidence


class HeadWorld(NamedTuple):
    """A made-up model: what sets of heads take of each task's margin."""

    name: str
    chosen: float  # nats that the chosen heads take
    random: float  # nats that a random set takes
    spread: float = 0.0  # how much sets differ, the chosen one as well: deviation of the logarithm
    n: int = 35  # half of 70 items, as the others choose heads
    fragile: Mapping[str, float] = {}  # times as much is taken, by task
    margin: float = 4.0


HEAD_CLAIMS = {
    "wu-1": ("copying", ("kv-words", "facts")), "song-7": ("cost", ("kv-words", "arithmetic")),
    "olsson-1": ("induction", ("kv-words",)),
}  # fmt: skip
"""Claims on sets of heads, with the way in which heads are chosen and the tasks that are asked."""
N_SETS = 20


def made_up_head_sets(rng: np.random.Generator, world: HeadWorld) -> pd.DataFrame:
    """Answers without sets of heads in a world, as a replication has them."""
    return pd.concat([
        _made_up_sets(rng, world, by, task, {"copying": tasks[0], "cost": task}.get(by))
        for by, tasks in HEAD_CLAIMS.values()
        for task in tasks
    ], ignore_index=True)  # fmt: skip


def _made_up_sets(
    rng: np.random.Generator, world: HeadWorld, by: str, task: str, ranked_on: str | None
) -> pd.DataFrame:
    """Rows of a task: the intact model, the chosen heads and the random sets."""
    n, n_sets = world.n, 1 + (2 * N_SETS if by == "cost" else N_SETS)
    sizes = np.where(np.arange(n_sets) == 0, world.chosen, world.random)
    sizes = sizes * np.exp(world.spread * rng.standard_normal(n_sets))
    margin = world.margin + 2.0 * rng.standard_normal(n)
    own = np.exp(0.5 * rng.standard_normal((n_sets, n)))
    taken = world.fragile.get(task, 1.0) * sizes[:, None] * own
    taken = taken + 0.5 * rng.standard_normal((n_sets, n))
    correct = np.concatenate([[margin > 0], margin - taken > 0])
    names = ["intact", *(f"set {number}" for number in range(n_sets))]
    of = np.repeat(np.arange(n_sets + 1), n)
    return pd.DataFrame({
        "by": by, "ranked_on": ranked_on, "set": pd.array(of - 1, dtype="Int64"),
        "intervention": np.array(names)[of], "kind": np.where(of, "skip", "intact"), "task": task,
        "capability": TASKS[task], "protocol": "generate", "correct": correct.ravel(),
        "item": np.tile([str(item) for item in range(n)], n_sets + 1), "cluster": None,
        "chance": 0.0,
    })  # fmt: skip


def head_worlds() -> list[HeadWorld]:
    """Worlds in which the chosen heads are like all others, or do not take enough."""
    fragile = {"kv-words": 1.6, "facts": 0.4, "arithmetic": 1.6}
    return [
        HeadWorld("no head matters", 0.0, 0.0),
        HeadWorld("sets of heads all alike", 2.0, 2.0),
        HeadWorld("sets of heads all alike, n = 20", 2.0, 2.0, n=20),
        HeadWorld("sets of heads all alike, the model weak", 2.0, 2.0, n=70, margin=1.0),
        HeadWorld("sets of heads all alike, only fragility differs", 2.0, 2.0, fragile=fragile),
        HeadWorld("sets of heads differ, the chosen is any", 1.5, 1.5, spread=0.7),
        HeadWorld("sets of heads differ much, the chosen is any", 1.5, 1.5, spread=1.2, n=150),
        HeadWorld("the chosen take not quite half, of all tasks", 3.3, 0.0),
    ]


def is_false_of_heads(claim: str, side: str, world: HeadWorld) -> bool:
    """True if a verdict on a claim about sets of heads is false in a world."""
    if side == "opposite":  # a set that is any may cost little, and then it is true
        return world.random + world.chosen > 0 and not world.spread
    return world.chosen <= world.random or claim != "olsson-1"


def head_verdict_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """As ``verdict_rates``, of the claims on sets of heads."""
    rows: list[dict[str, Any]] = []
    for number, world in enumerate(head_worlds()):
        rng = np.random.default_rng([seed, 1, number])

        def evidence(rng: np.random.Generator = rng, world: HeadWorld = world) -> Evidence:
            tables = {"head_sets": made_up_head_sets(rng, world)}
            return Evidence({}, {}, frozenset(), N_LAYERS, tables)

        false = {
            claim: [side for side in ("holds", "opposite") if is_false_of_heads(claim, side, world)]
            for claim in HEAD_CLAIMS
        }
        rows += rates_in_world(world.name, evidence, false, n_runs)
    return pd.DataFrame(rows)
