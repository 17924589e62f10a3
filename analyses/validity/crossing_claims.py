"""Rates of claimed crossings of layers where one order explains all, and of true ones.

The margin of the right answer over the others is made up for each item. A layer takes some of it
away. So capabilities may differ in how hard their tasks are, how unlike their items, how noisy
their answers, and in what is guessed; none of these makes layers cross.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.capability_layers import LOSES_MORE, NEEDED, layer_estimates
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.inference import exact_interval
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import pools
from layerwise.stats.signals.signal import signals

N_LAYERS, CHANCE, SMALLEST = 30, 0.25, 0.05
N_RUNS, N_POWER = 150, 60
CHOOSES, WRITES = "continuation", "generate"
Damage = Float[np.ndarray, " layers"]

# What each layer takes from every margin, nats: the first ones nearly all, most of the others some.
_rng = np.random.default_rng(20)
DAMAGE: Damage = np.concatenate([[8.0, 6.0, 4.0], _rng.gamma(1.0, 0.7, N_LAYERS - 3)])


@dataclass(frozen=True)
class Task:
    """A task as it is made up, by nats of the right answer's margin.

    Attributes:
        damage: what each layer takes from the margin on average.
        margin: mean margin of the intact model.
        spread: standard deviation of margins over items.
        noise: standard deviation of what a layer takes from one item.
        floor: share of the items that are right by luck where the margin is gone.
        protocols: each protocol's change of the margin: writing is harder, say.
        of_protocol: damage under one protocol, in place of ``damage``.
    """

    damage: Damage = field(default_factory=DAMAGE.copy)
    margin: float = 3.0
    spread: float = 2.0
    noise: float = 1.0
    floor: float = 0.0
    protocols: tuple[tuple[str, float], ...] = ((CHOOSES, 0.0), (WRITES, -1.0))
    of_protocol: tuple[tuple[str, Damage], ...] = ()


def made_up_cells(
    rng: np.random.Generator, asked: dict[str, list[Task]], n: int, cluster: int = 1
) -> list[Cell]:
    """Cells of a run in which the capabilities have the given tasks of ``n`` items.

    Items come in clusters of ``cluster`` that nearly share their fate.
    """
    codes = np.arange(n) // cluster
    return [
        _cell(rng, task, capability, f"{capability} {i}", protocol, shift, easy, codes)
        for capability, tasks in asked.items()
        for i, task in enumerate(tasks)
        for easy in [rng.standard_normal(codes.max() + 1)[codes]]
        for protocol, shift in task.protocols
    ]


def _cell(
    rng: np.random.Generator,
    task: Task,
    capability: str,
    name: str,
    protocol: str,
    shift: float,
    easy: Float[np.ndarray, " items"],
    codes: np.ndarray,
) -> Cell:
    n, alone = len(easy), codes.max() + 1 == len(easy)
    damage = dict(task.of_protocol).get(protocol, task.damage)
    noise = rng.standard_normal((n, N_LAYERS))
    if not alone:
        noise = 0.95 * rng.standard_normal((codes.max() + 1, N_LAYERS))[codes] + 0.3 * noise
    margin = task.margin + shift + task.spread * easy
    taken = damage + task.noise * np.minimum(damage, 1.0) * noise
    after = margin[:, None] - taken
    lucky = rng.random((n, N_LAYERS + 1)) < task.floor
    intact = (margin > 0) | lucky[:, -1]
    correct = (after > 0) | lucky[:, :-1]
    nats = np.zeros((n, N_LAYERS))
    changes = pd.DataFrame({"layer": np.arange(N_LAYERS)})
    return Cell(
        name, capability, protocol, changes, intact, correct, nats, taken,
        tuple(map(str, range(n))),
        Clusters.from_labels([None if alone else f"{name} {code}" for code in codes]),
        no_layers=lucky[:, -1],
    )  # fmt: skip


def estimates(cells: list[Cell]) -> pd.DataFrame:
    """Established layers of a run, with its gate of signal."""

    def chance(task: str, protocol: str) -> float:
        return 0.0

    signal = signals(cells, chance)
    floors = {(cell.task, cell.protocol): cell.floor(0.0) for cell in cells}
    n_capabilities = len({cell.capability for cell in cells})
    return layer_estimates(pools(cells, signal, floors), n_capabilities, SMALLEST)


@dataclass(frozen=True)
class World:
    """A made-up model in which one order of layers explains all capabilities."""

    name: str
    asked: dict[str, list[Task]]
    n: int = 70
    cluster: int = 1
    # Capabilities that do need other layers, so that crossings with them are true.
    apart: tuple[str, ...] = ()


def one_order_worlds() -> list[World]:
    """Worlds that differ in difficulty, spread, noise, floors, protocols or the mix of tasks."""
    usual = Task()
    names = ("retrieval", "knowledge", "reasoning", "coherence")

    def unlike(**options: tuple[Any, ...]) -> dict[str, list[Task]]:
        sizes = {len(values) for values in options.values()}
        return {
            name: [replace(usual, **{key: values[i] for key, values in options.items()})]
            for i, name in zip(range(max(sizes)), names, strict=False)
        }

    other = np.roll(DAMAGE, 11)  # layers that writing needs and choosing does not
    by_way = ((CHOOSES, DAMAGE), (WRITES, other))
    easy, hard = 6.0, -0.5
    ties = np.full(N_LAYERS, 1.0)
    return [
        World("all capabilities alike", unlike(margin=(3.0,) * 4)),
        World("margins of 1.5 and 4.5 nats", unlike(margin=(1.5, 4.5))),
        World("margins of 1.5 and 3 nats", unlike(margin=(1.5, 3.0))),
        World("margins of 2 and 4 nats", unlike(margin=(2.0, 4.0))),
        World("margins of 2, 3, 4 and 6 nats", unlike(margin=(2.0, 3.0, 4.0, 6.0))),
        World("margins of 2 and 4 nats, 200 items", unlike(margin=(2.0, 4.0)), 200),
        World("items unlike: spread 1 and 4 nats", unlike(spread=(1.0, 4.0))),
        World("answers flip: noise 0.2 and 3 nats", unlike(noise=(0.2, 3.0))),
        World("a quarter is guessed of one", unlike(floor=(0.0, 0.25))),
        World("layers take twice as much from one",
              unlike(damage=(DAMAGE, 2 * DAMAGE))),
        World("one loses nothing but by layers 0 to 2",
              unlike(margin=(3.0, 12.0))),
        World("all layers tie for one, by many answers or few",
              {"retrieval": [usual] * 2,
               "knowledge": [replace(usual, damage=ties, noise=0.2), replace(usual, damage=ties,
                                                                            noise=6.0)]}),
        World("clusters of 5", unlike(margin=(2.0, 4.0)), 100, 5),
        World("other layers write, and one capability writes well, the other chooses well",
              {"retrieval": [replace(usual, protocols=((CHOOSES, easy), (WRITES, hard)),
                                     of_protocol=by_way)],
               "knowledge": [replace(usual, protocols=((CHOOSES, hard), (WRITES, easy)),
                                     of_protocol=by_way)]}),
        World("other layers write, and a second task can only choose",
              {"retrieval": [replace(usual, of_protocol=by_way)] * 2,
               "knowledge": [replace(usual, of_protocol=by_way),
                             replace(usual, protocols=((CHOOSES, 2.0), (WRITES, -9.0)),
                                     of_protocol=by_way)]}),
        World("a third capability needs other layers",
              unlike(margin=(2.0, 4.0)) | {"reasoning": [replace(usual, damage=other)]},
              apart=("reasoning",)),
    ]  # fmt: skip


def false_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate at which anything false is established in a run, of crossings and of shares lost.

    Args:
        n_runs: simulated runs of each world.
        seed: of all that is drawn.

    Returns:
        ``world``, ``what`` (``crossing``, ``loses more``), ``runs``, ``false`` (runs with a false
        claim), ``rate``, ``low``, ``high`` (exact 95 % bounds).
    """
    rows: list[dict[str, Any]] = []
    for number, world in enumerate(one_order_worlds()):
        rng = np.random.default_rng([seed, number])
        runs = dict.fromkeys((CROSSING, LOSES_MORE), 0)
        for _ in range(n_runs):
            cells = made_up_cells(rng, world.asked, world.n, world.cluster)
            table = estimates(cells)
            false = _of_one_order(table, world.apart)
            for what in runs:
                runs[what] += bool((false["what"] == what).any())
        for what, count in runs.items():
            interval = exact_interval(count, n_runs)
            rate = {"rate": count / n_runs, "low": interval.low, "high": interval.high}
            about = {"world": world.name, "what": what, "runs": n_runs}
            rows.append({**about, "false": count, **rate})
    return pd.DataFrame(rows)


def _of_one_order(table: pd.DataFrame, apart: tuple[str, ...]) -> pd.DataFrame:
    """Established layers of two capabilities that one order explains."""
    if "other" not in table:
        return table.iloc[:0]
    one_order = ~table["other"].isin(apart) & ~table["capability"].isin(apart)
    return table.loc[table["established"].astype(bool) & table["other"].notna() & one_order]


def power(n_runs: int = N_POWER, seed: int = 0) -> pd.DataFrame:
    """Rate at which a planted crossing, and a planted need, are found.

    Layer 17 costs reasoning so many points and layer 5 as many of retrieval, in one task or two a
    capability; all other layers cost both alike.
    """
    rows: list[dict[str, Any]] = []
    for n in (24, 70, 100, 200):
        for points in (20, 40, 60):
            for n_tasks in (1, 2):
                rng = np.random.default_rng([seed, n, points, n_tasks])
                found = dict.fromkeys((CROSSING, NEEDED), 0)
                for _ in range(n_runs):
                    table = estimates(_crossing_cells(rng, n, points / 100, n_tasks))
                    sure = table.loc[table["established"].astype(bool)]
                    at = (sure["capability"] == "reasoning") & (sure["layer"] == 17)
                    for what in found:
                        found[what] += bool((at & (sure["what"] == what)).any())
                about = {"items of a task": n, "points": points, "tasks": n_tasks}
                shares = {what: count / n_runs for what, count in found.items()}
                rows.append({**about, "runs": n_runs, **shares})
    return pd.DataFrame(rows)


def _crossing_cells(rng: np.random.Generator, n: int, loss: float, n_tasks: int) -> list[Cell]:
    """Cells of a run in which layers 5 and 17 cross, right in 85 % under two protocols."""
    quiet = np.where(DAMAGE >= 4, DAMAGE, 0.0)
    base = Task(damage=quiet, margin=2.0, spread=1.9, protocols=((CHOOSES, 0.0), (WRITES, 0.0)))
    asked = {name: [base] * n_tasks for name in ("retrieval", "reasoning")}
    cells = made_up_cells(rng, asked, n)
    for cell in cells:
        layer = 17 if cell.capability == "reasoning" else 5
        cell.correct[:, layer] &= rng.random(n) >= loss / 0.85
    return cells
