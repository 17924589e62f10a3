"""Error rates of verdicts on published claims, in worlds without what they claim.

Answers are made up: each item has a margin of the right answer, from which a skipped layer takes
as much as the world says, and is right while something is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.analyses.replication.claims import BY_NAME
from layerwise.analyses.replication.verdicts.claim import ClaimTest
from layerwise.analyses.replication.verdicts.evidence import Evidence
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
    for task in world.damage:
        capability = TASKS.get(task, "reasoning")
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
        false = {
            name: [side for side in ("holds", "opposite") if is_false(name, side, world)]
            for name in names
        }

        def evidence(rng: np.random.Generator = rng, world: World = world) -> Evidence:
            def chance(task: str, protocol: str) -> float:
                return world.chance.get(protocol, 0.0 if protocol == "generate" else 0.25)

            return Evidence.from_cells(made_up_cells(rng, world), chance, N_LAYERS)

        rows += rates_in_world(world.name, evidence, false, n_runs)
    own = [variant_rates(n_runs, seed), restored_rates(n_runs, seed)]
    return pd.concat([pd.DataFrame(rows), *own], ignore_index=True)


def rates_in_world(
    world: str,
    evidence: Callable[[], Evidence],
    false: Mapping[Any, Sequence[str]],
    n_runs: int,
) -> list[dict[str, Any]]:
    """Rates of verdicts on claims, each asked alone, with the sides on which they are false."""
    counts = {(name, side): 0 for name in false for side in ("holds", "opposite")}
    tested = dict.fromkeys(false, 0)
    for _ in range(n_runs):
        made_up = evidence()
        for name in false:
            parts = [p for p in BY_NAME[name].test(made_up) if isinstance(p, ClaimTest)]
            tested[name] += bool(parts)
            for side in ("holds", "opposite"):
                smallest = min((getattr(p, f"p_{side}") for p in parts), default=1.0)
                counts[name, side] += bool(parts) and 2 * len(parts) * smallest < LEVEL
    return [
        {
            "world": world, "claim": name, "verdict": side, "false": side in false[name],
            "runs": n_runs, "tested": tested[name], "found": found, "rate": found / n_runs,
            "low": bounds.low, "high": bounds.high,
        }
        for (name, side), found in counts.items()
        for bounds in [exact_interval(found, n_runs)]
    ]  # fmt: skip


HOPS = tuple(f"hops:hops={n}" for n in (1, 2, 3, 4))
PAIRS = ("kv-words:n_pairs=5", "kv-words:n_pairs=15")
VARIANTS = ("csordas-2", "hu-1")


def variant_worlds() -> list[tuple[World, tuple[str, ...]]]:
    """Worlds of easy and hard variants that need the same layers, and the sides that are false.

    In the last two the harder variants lie one layer deeper, which is the bound.
    """
    tasks = (*HOPS, *PAIRS)
    margin = dict(zip(tasks, (5.0, 4.0, 3.4, 3.0, 5.0, 3.0), strict=True))
    fragile = dict(zip(tasks, (0.6, 1.0, 1.3, 1.6, 0.6, 1.6), strict=True))
    alike = dict.fromkeys(tasks, flat(2.0))
    order = dict.fromkeys(tasks, falling(8.0))
    rising = dict.fromkeys(tasks, falling(8.0)[::-1].copy())
    none = dict.fromkeys(tasks, flat(0.0))
    deeper = {task: np.roll(peak(8), 0 if task in (HOPS[0], PAIRS[0]) else 1) for task in tasks}
    differ: dict[str, dict[str, Any]] = {"only difficulty differs": {"margin": margin},
              "only fragility differs": {"fragile": fragile}}  # fmt: skip
    same = [
        World(f"variants: {name}, {how}", damage, **changes)
        for name, damage in {
            "all layers alike": alike, "early first": order, "late first": rising
        }.items()
        for how, changes in differ.items()
    ]  # fmt: skip
    return [
        (World("variants: no layer matters", none), ("holds", "opposite")),
        *((world, ("opposite",)) for world in same),
        (World("variants: one layer deeper", deeper, 100), ("holds", "opposite")),
        (World("variants: one layer deeper, n = 400", deeper, 400), ("holds", "opposite")),
    ]


def peak(middle: float, width: float = 1.5, size: float = 5.0) -> Damage:
    """Layers around one take most."""
    return size * np.exp(-(((np.arange(N_LAYERS) - middle) / width) ** 2) / 2)


def variant_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """The same of claims that compare easy and hard variants of a suite."""
    rows = []
    for number, (world, sides) in enumerate(variant_worlds()):
        rng = np.random.default_rng([seed, 100, number])

        def evidence(rng: np.random.Generator = rng, world: World = world) -> Evidence:
            cells = [c for c in made_up_cells(rng, world) if c.protocol != "letter"]
            chance = {"continuation": 0.25, "generate": 0.0}
            return Evidence.from_cells(cells, lambda _, protocol: chance[protocol], N_LAYERS)

        rows += rates_in_world(world.name, evidence, dict.fromkeys(VARIANTS, sides), n_runs)
    return pd.DataFrame(rows)


class PairWorld(NamedTuple):
    """A made-up model in pairs of prompts: shares of the way that restored outputs bring back."""

    name: str
    mlps: Damage  # at the last token that differs, by layer
    attention: Damage  # there
    last: Damage  # of attention at the last token
    false: Mapping[Any, Sequence[str]]  # sides of claims that are false
    n: int = 24
    spread: float = 0.3  # of the ways between the runs of a pair, as a lognormal


def made_up_pairs(rng: np.random.Generator, world: PairWorld) -> pd.DataFrame:
    """A table of patching; two pairs in a row ask for the same and share what moves them."""
    whole = 4.0 * np.exp(world.spread * rng.standard_normal(world.n))
    shares = {("mlp_out", "last changed"): world.mlps, ("attn_out", "last changed"):
              world.attention, ("attn_out", "last"): world.last}  # fmt: skip
    parts = []
    for (site, label), share in shares.items():
        of_cluster = np.repeat(rng.standard_normal((world.n // 2, N_LAYERS)), 2, axis=0)
        moved = 0.03 * (of_cluster + rng.standard_normal((world.n, N_LAYERS)))
        own = np.exp(0.5 * rng.standard_normal((world.n, 1)) - 0.125)
        gain = (share * own + moved) * whole[:, None]
        item, layer = (axis.ravel() for axis in np.indices(gain.shape))
        base = -whole[item] / 2
        parts.append(pd.DataFrame({
            "task": "facts", "capability": "knowledge", "protocol": "continuation",
            "item": item.astype(str), "cluster": (item // 2).astype(str), "site": site,
            "pos_label": label, "layer": layer, "clean_diff": -base, "corrupted_diff": base,
            "patched_diff": base + gain.ravel(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def pair_worlds() -> list[PairWorld]:
    """Worlds in which no third restores more, or two sides lie at their bounds."""
    none, some, more = flat(0.0), flat(0.05), flat(0.15)
    both = {"meng-1": ("holds", "opposite"), "geva-1": ("holds", "opposite")}
    early_too = np.where(np.arange(N_LAYERS) < 16, 0.15, 0.05)
    middle = np.where(np.isin(np.arange(N_LAYERS), range(8, 16)), 0.15, 0.05)
    bump = peak(8, size=0.3)
    return [
        PairWorld("pairs: noise alone", none, none, none, both),
        PairWorld("pairs: all layers alike", some, some, some, both),
        PairWorld("pairs: all layers alike, n = 12", some, some, some, both, 12),
        PairWorld("pairs: all layers alike, only difficulty differs", some, some, some, both,
                  spread=1.0),
        PairWorld("pairs: all layers alike, only fragility differs", more, some, some, both),
        PairWorld("pairs: early MLPs as much as middle ones", early_too, some, some,
                  {"meng-1": ("holds", "opposite")}),
        PairWorld("pairs: middle attention as much as MLPs", middle, middle, some,
                  {"meng-1": ("holds", "opposite")}),
        PairWorld("pairs: attention one layer deeper", bump, some, np.roll(bump, 1),
                  {"geva-1": ("holds", "opposite")}),
        PairWorld("pairs: attention one layer before", bump, some, np.roll(bump, -1),
                  {"geva-1": ("holds", "opposite")}),
    ]  # fmt: skip


def restored_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """The same of claims on what restored states bring back."""
    rows = []
    for number, world in enumerate(pair_worlds()):
        rng = np.random.default_rng([seed, 200, number])

        def evidence(rng: np.random.Generator = rng, world: PairWorld = world) -> Evidence:
            tables = {"patching": made_up_pairs(rng, world)}
            return Evidence.from_cells([], lambda _, protocol: 0.25, N_LAYERS, tables)

        rows += rates_in_world(world.name, evidence, world.false, n_runs)
    return pd.DataFrame(rows)
