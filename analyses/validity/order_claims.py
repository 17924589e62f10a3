"""Rates of orders claimed by ablation where there is none, and of true ones.

Answers are made up as in ``layer_claims``: of both capabilities what every layer costs is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
from layer_claims import CHANCE, N_LAYERS, MadeUpCapability, made_up_cells, profile

from layerwise.analyses.emergence import summaries
from layerwise.analyses.emergence.summaries import HALF, Summary, order_rows
from layerwise.stats.cells import Cell
from layerwise.stats.depth.item_curves import losses_by_item
from layerwise.stats.depth.layer_curves import ABLATION
from layerwise.stats.inference import exact_interval, holm
from layerwise.stats.items.clusters import Clusters, paired_p_values

N_SETS, N_HARD = 100, 400
SIZES = (24, 50, 100, 200)
# What every capability of a small model needs.
SHARED = {"l0": 0.85, "l1": 0.85, "l2": 0.4, "l8": 0.3, "l11": 0.5}
# Beyond the five that both need.
SECOND_NEEDS = "the first needs layer 13, the second"
# Of all worlds without an order, that in which most are claimed.
HARD = f"{SECOND_NEEDS} 4 that cost the first 8"
EARLIER = (
    f"{SECOND_NEEDS} 1 that cost the first 8",
    "the same five layers, and 13 against 20 cost 60; 6 % flip",
    "the same five layers, and 5, 6 against 16, 17 cost 60; 6 % flip",
)
Draw = Callable[[np.random.Generator, int], list[Cell]]


class World(NamedTuple):
    """Two made-up capabilities, and whether the first comes before the second."""

    name: str
    draw: Draw
    order: bool = False


def worlds() -> list[World]:
    """Pairs without an order, and pairs with one."""

    def two(
        one: dict[str, float],
        other: dict[str, float],
        low: tuple[float, float] = (0.0, 0.0),
        flips: tuple[float, float] = (0.06, 0.06),
        accuracy: float = 0.9,
    ) -> Draw:
        def draw(rng: np.random.Generator, n: int) -> list[Cell]:
            pairs = zip((one, other), low, flips, strict=True)
            return made_up_cells(
                rng,
                [
                    MadeUpCapability((profile(background, **layers),), n, accuracy, 1, flip)
                    for layers, background, flip in pairs
                ],
            )

        return draw

    three, weak = {"l3": 0.6, "l4": 0.6, "l5": 0.6}, 2 * 0.36 * 0.64
    found = [
        World("one is more fragile everywhere", two(three, three, (0.02, 0.12))),
        World("the same two layers in other proportions, no flips",
              two({"l3": 0.75, "l25": 0.25}, {"l3": 0.25, "l25": 0.75}, flips=(0.0, 0.0))),
        World("the same two layers in other proportions",
              two({"l3": 0.6, "l25": 0.2}, {"l3": 0.2, "l25": 0.6})),
        World("shared items that lose at opposite ends", opposite_ends),
        World("the same five layers, one is more fragile", two(SHARED, SHARED, (0.02, 0.1))),
        World("the same five layers in other proportions",
              two(SHARED, {"l0": 0.4, "l1": 0.4, "l2": 0.8, "l8": 0.6, "l11": 0.85})),
        World("the same five layers, one needs a further one", two(SHARED | {"l3": 0.6}, SHARED)),
        World("four layers around those of the other, unequal flips",
              two({"l10": 0.5, "l11": 0.5, "l18": 0.5, "l19": 0.5},
                  {"l13": 0.3, "l14": 0.3, "l15": 0.3, "l16": 0.3}, flips=(0.02, 0.15))),
        World("two layers around that of the other",
              two({"l13": 0.6}, {"l6": 0.4, "l20": 0.4}, flips=(0.02, 0.02))),
        World("nothing is needed; right in 36 % for a chance of 25 %",
              two({}, {}, flips=(weak, weak), accuracy=0.36)),
    ]  # fmt: skip
    for cost, low, flips in (
        (0.6, 0.0, 0.06),
        (0.4, 0.0, 0.06),
        (0.6, 0.0, 0.15),
        (0.4, 0.05, 0.06),
    ):
        for place, early, late in (("13 against 20", (13,), (20,)),
                                   ("5, 6 against 16, 17", (5, 6), (16, 17))):  # fmt: skip
            one, other = (SHARED | {f"l{layer}": cost for layer in each} for each in (early, late))
            name = (
                f"the same five layers, and {place} cost {100 * cost:.0f}; {100 * flips:.0f} % flip"
            )
            name += f", any layer costs {100 * low:.0f}" * bool(low)
            found.append(World(name, two(one, other, (low, low), (flips, flips)), order=True))
    for layers, cost, flips in (((20,), 0.08, 0.06), ((20,), 0.08, 0.0), ((20,), 0.1, 0.06),
                                ((20, 21, 22, 23), 0.08, 0.06)):  # fmt: skip
        little, much = ({f"l{layer}": c for layer in layers} for c in (cost, 0.6))
        name = f"{SECOND_NEEDS} {len(layers)} that cost the first {100 * cost:.0f}"
        name += ", no flips" * (not flips)
        found.append(World(name, two(SHARED | {"l13": 0.6} | little, SHARED | much,
                                     flips=(flips, flips))))  # fmt: skip
    return found


def opposite_ends(rng: np.random.Generator, n: int) -> list[Cell]:
    """The same items in both: those that the one loses at layer 3 the other loses at 20."""
    early, found = rng.random(n) < 0.5, []
    labels = Clusters.from_labels([f"fact {i}" for i in range(n)])
    for i, cell in enumerate(made_up_cells(rng, [MadeUpCapability((profile(),), n, 0.95, 1)] * 2)):
        lost = rng.random(n) < 0.9
        cell.correct[lost, np.where(early ^ bool(i), 3, 20)[lost]] = False
        found.append(cell._replace(clusters=labels))
    return found


def claimed_order(cells: list[Cell]) -> float:
    """The claimed depth of the second capability minus that of the first; 0 if none is."""
    if not all(_has_needed_layer(cell) for cell in cells):  # no depth is reported then
        return 0.0
    (row,) = order_rows([_summary(cell) for cell in cells], N_LAYERS, 1.0, {})
    return float(row["difference"]) if row["significant"] else 0.0


def _has_needed_layer(cell: Cell) -> bool:
    return bool((holm(paired_p_values(cell.net, cell.clusters)) < 0.05).any())


def _summary(cell: Cell) -> Summary:
    curves = losses_by_item(cell.intact.astype(float), cell.correct.astype(float), CHANCE,
                            clusters=cell.clusters)  # fmt: skip
    return Summary(cell.capability, cell.protocol, ABLATION, HALF, np.zeros(1), (cell.task,),
                   len(cell.items), cell.clusters, curves=(curves,))  # fmt: skip


def order_rates(n_sets: int = N_SETS, n_hard: int = N_HARD, seed: int = 0) -> pd.DataFrame:
    """Rate at which an order is claimed, by world and number of items; false ones of all."""
    rows = []
    for number, world in enumerate(worlds()):
        for n in SIZES:
            rng = np.random.default_rng([seed, number, n])
            sets = n_hard if world.name == HARD else n_sets
            found = np.array([claimed_order(world.draw(rng, n)) for _ in range(sets)])
            true = int((found > 0).sum()) if world.order else 0
            false = int((found != 0).sum()) - true
            interval = exact_interval(false, sets)
            rows.append({"world": world.name, "items": n, "sets": sets, "order": world.order,
                         "found": true, "false": false, "rate": false / sets,
                         "low": interval.low, "high": interval.high})  # fmt: skip
    return pd.DataFrame(rows)


def earlier_rates(n_sets: int = N_SETS, seed: int = 0) -> pd.DataFrame:
    """Rate at which the earlier rule claimed an order, in worlds that show what it costs."""
    rows = []
    for number, world in enumerate(worlds()):
        if world.name not in EARLIER:
            continue
        for n in SIZES:
            rng = np.random.default_rng([seed, number, n])
            with mock.patch.object(summaries, "layers_in_doubt", return_value=set()):
                found = np.array([claimed_order(world.draw(rng, n)) for _ in range(n_sets)])
            claimed = int((found > 0 if world.order else found != 0).sum())
            rows.append({"world": world.name, "items": n, "sets": n_sets, "order": world.order,
                         "claimed": claimed})  # fmt: skip
    return pd.DataFrame(rows)
