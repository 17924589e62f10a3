"""How often verdicts on published claims are false in worlds without what they claim.

Answers are made up: each item has a margin of the right answer, from which a skipped layer takes
as much as the world says, and is right while something is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.analyses.replication.claim import ClaimTest
from layerwise.analyses.replication.claims import BY_NAME
from layerwise.analyses.replication.evidence import Evidence
from layerwise.stats.cells import Cell
from layerwise.stats.inference import exact_interval
from layerwise.stats.items.clusters import Clusters

N_LAYERS, N_RUNS, LEVEL = 24, 200, 0.05
TASKS = {"facts": "knowledge", "kv-words": "retrieval", "arithmetic": "reasoning"}
PROTOCOLS = ("letter", "continuation", "generate")
Damage = Float[np.ndarray, " layers"]


class World(NamedTuple):
    """A made-up model: what each layer takes, and how tasks and ways of scoring differ."""

    name: str
    damage: Mapping[str, Damage]  # nats that a skipped layer takes, by task
    n: int = 70
    fragile: Mapping[str, float] = {}  # times as much is taken, by task or way of scoring
    margin: Mapping[str, float] = {}  # mean margin in nats, by task or way of scoring; 4 if none
    chance: Mapping[str, float] = {}  # by way of scoring; 0.25, and 0 when it writes


def flat(size: float) -> Damage:
    """Every layer takes the same."""
    return np.full(N_LAYERS, size)


def falling(size: float) -> Damage:
    """Early layers take more than late ones."""
    return size * np.exp(-np.arange(N_LAYERS) / 5)


def made_up_cells(rng: np.random.Generator, world: World) -> list[Cell]:
    """Answers of a run in a world."""
    cells = []
    changes = pd.DataFrame({"layer": np.arange(N_LAYERS)})
    for task, capability in TASKS.items():
        shared = rng.standard_normal(world.n)
        for protocol in PROTOCOLS:
            mean = world.margin.get(task, 4.0) * world.margin.get(protocol, 1.0)
            fragile = world.fragile.get(task, 1.0) * world.fragile.get(protocol, 1.0)
            margin = mean + 2.0 * (0.7 * shared + 0.7 * rng.standard_normal(world.n))
            own = np.exp(0.5 * rng.standard_normal((world.n, N_LAYERS)))
            moved = 0.5 * rng.standard_normal((world.n, N_LAYERS))
            taken = fragile * world.damage[task] * own + moved
            luck = world.chance.get(protocol, 0.0 if protocol == "generate" else 0.25)
            intact = (margin > 0) | (rng.random(world.n) < luck)
            lucky = rng.random((world.n, N_LAYERS)) < luck
            correct = (margin[:, None] - taken > 0) | lucky
            cells.append(Cell(
                task, capability, protocol, changes, intact, correct, taken, taken,
                tuple(map(str, range(world.n))), Clusters.singletons(world.n),
            ))  # fmt: skip
    return cells


def worlds() -> list[World]:
    """Worlds in which no claim about layers is true, or all layers have one order."""
    same = {task: flat(2.0) for task in TASKS}
    none = {task: flat(0.0) for task in TASKS}
    order = {task: falling(8.0) for task in TASKS}
    rising = {task: falling(8.0)[::-1].copy() for task in TASKS}
    harder = {"generate": 2.5, "letter": 1.6}
    return [
        World("no layer matters", none),
        World("all layers alike", same),
        World("all layers alike, n = 24", same, 24),
        World("all layers alike, only fragility differs", same,
              fragile={"arithmetic": 2.0, "kv-words": 0.5, **harder}),
        World("all layers alike, only floors differ", same, chance={"letter": 0.5}),
        World("all layers alike, only difficulty differs", same,
              margin={"arithmetic": 2.0, "kv-words": 6.0, "generate": 0.6}),
        World("one order, early first, only fragility differs", order,
              fragile={"arithmetic": 2.0, "kv-words": 0.5, **harder}),
        World("one order, late first, only fragility differs", rising,
              fragile={"arithmetic": 2.0, "kv-words": 0.5, **harder}),
        World("one order, early first, only difficulty differs", order,
              margin={"arithmetic": 2.0, "kv-words": 6.0, "generate": 0.6}),
    ]  # fmt: skip


# Claims that compare ways of scoring or capabilities: false wherever one order explains both.
COMPARE = ("song-2", "song-3", "song-5")
# Claims on where layers matter: false where all layers are alike.
PLACE = ("song-1", "song-4", "song-9", "lad-1", "csordas-1")
# Claims on gains: false where every layer takes something, or nothing.
GAINS = ("naim-1", "neeraj-2")


def is_false(claim: str, side: str, world: World) -> bool:
    """True if a verdict on a claim, "holds" or "opposite", is false in a world."""
    alike = world.name.startswith(("all layers alike", "no layer matters"))
    if claim in COMPARE:
        # That letters and texts lose alike is true where nothing is lost.
        return (claim, side) != ("song-2", "opposite") or "fragility" in world.name
    if claim in GAINS:
        return side == "holds"
    if (claim, side) == ("song-1", "opposite"):  # all layers cost, where they are alike
        return world.name == "no layer matters"
    return claim in PLACE and alike


def verdict_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate of false verdicts of each claim, were it asked alone, by world and side."""
    rows: list[dict[str, Any]] = []
    names = (*COMPARE, *PLACE, *GAINS)
    for number, world in enumerate(worlds()):
        rng = np.random.default_rng([seed, number])

        def evidence(rng: np.random.Generator = rng, world: World = world) -> Evidence:
            return Evidence.from_cells(
                made_up_cells(rng, world),
                lambda task, protocol: world.chance.get(
                    protocol, 0.0 if protocol == "generate" else 0.25
                ),
                N_LAYERS,
            )

        rows += _world_rows(
            world.name, names, evidence, n_runs,
            lambda claim, side, world=world: is_false(claim, side, world),
        )  # fmt: skip
    return pd.DataFrame(rows)


def _world_rows(
    world: str, names: Sequence[str], evidence: Callable[[], Evidence], n_runs: int,
    is_false: Callable[[str, str], bool],
) -> list[dict[str, Any]]:  # fmt: skip
    """Counts of verdicts of claims in one world, each asked alone, in many runs."""
    counts = {(name, side): 0 for name in names for side in ("holds", "opposite")}
    tested = dict.fromkeys(names, 0)
    for _ in range(n_runs):
        found = evidence()
        for name in names:
            parts = [p for p in BY_NAME[name].test(found) if isinstance(p, ClaimTest)]
            tested[name] += bool(parts)
            for side in ("holds", "opposite"):
                smallest = min((getattr(p, f"p_{side}") for p in parts), default=1.0)
                counts[name, side] += 2 * len(parts) * smallest < LEVEL
    rows = []
    for (name, side), found in counts.items():
        bounds = exact_interval(found, n_runs)
        rows.append({
            "world": world, "claim": name, "verdict": side, "false": is_false(name, side),
            "runs": n_runs, "tested": tested[name], "found": found, "rate": found / n_runs,
            "low": bounds.low, "high": bounds.high,
        })  # fmt: skip
    return rows


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
    n, n_sets = world.n, 1 + N_SETS
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

        rows += _world_rows(
            world.name, tuple(HEAD_CLAIMS), evidence, n_runs,
            lambda claim, side, world=world: is_false_of_heads(claim, side, world),
        )  # fmt: skip
    return pd.DataFrame(rows)
