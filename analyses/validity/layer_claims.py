"""Rates of false claims of what layers are for, and of true ones that are found.

Answers are made up: of each capability what every layer costs is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr

from layerwise.stats.capability_layers import (
    LOSES_MORE,
    NEEDED,
    SPARE,
    layer_estimates,
    task_gains,
)
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.inference import exact_interval, holm
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.stats.pools import pools
from layerwise.stats.signals.signal import signals

N_LAYERS, CHANCE, SMALLEST = 30, 0.25, 0.05
N_RUNS, N_POWER, N_GAINS = 300, 60, 200
Losses = Float[np.ndarray, " layers"]
HIDDEN, RAISED = ("hidden", 17), ("raised", 17)


class MadeUpCapability(NamedTuple):
    """A capability as it is made up.

    Attributes:
        losses: share of the answers that each layer costs, by task.
        n: items of each task.
        accuracy: of the intact model.
        protocols: number of protocols.
        flips: share of the answers that any layer changes, as many for the better.
        alike: correlation of what happens to an item under several protocols and layers.
        cluster: items of a cluster, which lose and keep their answers alike.
    """

    losses: tuple[Losses, ...]
    n: int
    accuracy: float = 0.9
    protocols: int = 2
    flips: float = 0.06
    alike: float = 0.3
    cluster: int = 1


def profile(background: float = 0.0, **layers: float) -> Losses:
    """Costs of layers: ``l3=.6`` for layer 3, all others the background."""
    losses = np.full(N_LAYERS, background)
    for name, loss in layers.items():
        losses[int(name[1:])] = loss
    return losses


def made_up_cells(rng: np.random.Generator, asked: list[MadeUpCapability]) -> list[Cell]:
    """Cells of a run in which the capabilities are as given."""
    return [
        _cell(rng, one, f"capability {i}", f"task {i}.{j}", losses, protocol, shared)
        for i, one in enumerate(asked)
        for j, losses in enumerate(one.losses)
        for shared in [rng.standard_normal((-(-one.n // one.cluster), 1))]
        for protocol in [f"protocol {k}" for k in range(one.protocols)]
    ]


def _cell(
    rng: np.random.Generator,
    one: MadeUpCapability,
    capability: str,
    task: str,
    losses: Losses,
    protocol: str,
    shared: Float[np.ndarray, "clusters 1"],
) -> Cell:
    codes = np.arange(one.n) // one.cluster
    alike = 0.95 if one.cluster > 1 else one.alike
    drawn = rng.standard_normal((one.n, N_LAYERS))
    u = ndtr(np.sqrt(alike) * shared[codes] + np.sqrt(1 - alike) * drawn)
    intact = rng.random(one.n) < one.accuracy
    lost = u < np.minimum((losses + one.flips / 2) / one.accuracy, 1)
    gained = u < min(one.flips / 2 / max(1 - one.accuracy, 1e-9), 1)
    correct = np.where(intact[:, None], ~lost, gained)
    nothing = np.zeros((one.n, N_LAYERS))
    changes = pd.DataFrame({"layer": np.arange(N_LAYERS)})
    labels = [f"{task} {code}" if one.cluster > 1 else None for code in codes]
    return Cell(
        capability, capability, protocol, changes, intact, correct, nothing, nothing,
        tuple(map(str, range(one.n))), Clusters.from_labels(labels),
    )._replace(task=task)  # fmt: skip


def estimates(cells: list[Cell], *, gate: bool) -> pd.DataFrame:
    """Established layers of a run.

    Args:
        cells: its cells.
        gate: leave out what has no signal, as a run does; else all count.
    """
    every = {(cell.task, cell.protocol): True for cell in cells}
    signal = signals(cells, lambda task, protocol: CHANCE) if gate else every
    floors = {key: np.full(len(cell.intact), CHANCE)
              for key, cell in zip(every, cells, strict=True)}  # fmt: skip
    found = pools(cells, signal, floors)
    return layer_estimates(found, len({c.capability for c in cells}), SMALLEST)


class World(NamedTuple):
    """A made-up model, and which established rows are false of it."""

    name: str
    asked: list[MadeUpCapability]
    false: Callable[[pd.DataFrame], pd.Series]


def _needs(table: pd.DataFrame, *layers: int) -> pd.Series:
    """Losses that are established at layers which cost nothing."""
    return (table["what"] == NEEDED) & ~table["layer"].isin(layers)


def _is_difference(table: pd.DataFrame) -> pd.Series:
    return table["what"].isin([CROSSING, LOSES_MORE])


def _is_any_claim(table: pd.DataFrame) -> pd.Series:
    return table["what"].isin([NEEDED, CROSSING, LOSES_MORE])


def _spare(table: pd.DataFrame) -> pd.Series:
    return table["what"] == SPARE


def worlds() -> list[World]:
    """Made-up models in which something must not be claimed."""
    usual = profile(0.0, l0=0.85, l1=0.85, l2=0.4, l8=0.3, l11=0.5)
    found = []
    for n in (24, 50, 100):
        found += [
            World(
                f"nothing is needed, n = {n}",
                [MadeUpCapability((profile(), profile()), n)] * 4,
                _is_any_claim,
            ),
            World(
                f"all need the same, n = {n}",
                [MadeUpCapability((usual, usual), n)] * 4,
                _is_difference,
            ),
        ]
    spread = profile(0.08, l0=0.85, l1=0.85, l2=0.4, l8=0.3, l11=0.5)
    key, weak = profile(0.02, l3=0.6, l4=0.6, l5=0.6), profile(0.12, l3=0.6, l4=0.6, l5=0.6)
    found += [
        World(
            "all need the same, 12 to 100 items",
            [MadeUpCapability((usual,), n) for n in (12, 24, 50, 100)],
            _is_difference,
        ),
        World(
            "all need the same, other accuracies",
            [
                MadeUpCapability((usual * (a - CHANCE),) * 2, 50, accuracy=a)
                for a in (0.95, 0.8, 0.6, 0.45)
            ],
            _is_difference,
        ),
        World(
            "one is more fragile everywhere, n = 50",
            [MadeUpCapability((usual,), 50), MadeUpCapability((np.minimum(spread, 0.85),), 50)],
            _is_difference,
        ),
        World(
            "one is more fragile, n = 100",
            [MadeUpCapability((key,), 100), MadeUpCapability((weak,), 100)],
            _is_difference,
        ),
        World(
            "one is more fragile, n = 200",
            [MadeUpCapability((key,), 200), MadeUpCapability((weak,), 200)],
            _is_difference,
        ),
        World(
            "all need the same, clusters of 5",
            [MadeUpCapability((usual,), 100, cluster=5)] * 4,
            _is_difference,
        ),
        World(
            "nothing is needed, clusters of 5",
            [MadeUpCapability((profile(),), 100, cluster=5)] * 4,
            _is_any_claim,
        ),
        World(
            "loss of the margin, clusters of 5",
            [MadeUpCapability((profile(0.05),), 200, flips=0.02, cluster=5)] * 2,
            _spare,
        ),
        World(
            "loss of the margin, n = 200",
            [MadeUpCapability((profile(0.05),), 200, flips=0.02)] * 2,
            _spare,
        ),
    ]
    for right in (0.3, 0.33, 0.36, 0.4):
        # Any layer makes all answers anew: what changes is as often right as before.
        again = 2 * right * (1 - right)
        found.append(
            World(
                f"right in {100 * right:.0f} % for a chance of 25 %",
                [MadeUpCapability((profile(), profile()), 100, right, 3, again, 0.0)] * 4,
                _is_any_claim,
            )
        )
    return found


def false_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate at which anything false is established in a run."""
    rows: list[dict[str, Any]] = []
    for number, world in enumerate(worlds()):
        rng = np.random.default_rng([seed, number])
        runs = 0
        for _ in range(n_runs):
            table = estimates(made_up_cells(rng, world.asked), gate=True)
            runs += bool(len(table) and (table["established"] & world.false(table)).any())
        interval = exact_interval(runs, n_runs)
        rate = {"rate": runs / n_runs, "low": interval.low, "high": interval.high}
        rows.append({"world": world.name, "runs": n_runs, "false": runs, **rate})
    return pd.DataFrame(rows)


def power(n_runs: int = N_POWER, seed: int = 0) -> pd.DataFrame:
    """Rate at which a need and a difference of needs are found."""
    rows: list[dict[str, Any]] = []
    for n in (24, 50, 100, 200):
        for loss in (0.2, 0.4, 0.6):
            base = {"l0": 0.85, "l1": 0.85, "l11": 0.4}
            same, own = profile(0.0, **base), profile(0.0, **base, l17=loss)
            for name, tasks in (("both tasks", (own, own)), ("one of two", (own, same))):
                asked = [MadeUpCapability(tasks, n), *[MadeUpCapability((same, same), n)] * 3]
                rng = np.random.default_rng([seed, n, int(100 * loss)])
                found = np.zeros(3, dtype=int)
                for _ in range(n_runs):
                    cells = made_up_cells(rng, asked)
                    table = estimates(cells, gate=True)
                    mine = table.loc[table["established"] & (table["layer"] == 17)
                                     & (table["capability"] == "capability 0")]  # fmt: skip
                    told = [(mine["what"] == what).any() for what in (NEEDED, LOSES_MORE)]
                    found += [*told, _needed_by_a_leaf(cells)]
                rows.append(
                    {
                        "items of a task": n,
                        "loss": loss,
                        "needed by": name,
                        "needed": found[0] / n_runs,
                        "loses more": found[1] / n_runs,
                        "by single tests": found[2] / n_runs,
                    }
                )
    return pd.DataFrame(rows)


def _needed_by_a_leaf(cells: list[Cell]) -> bool:
    """True if a test of one task, protocol and layer finds layer 17 needed, Holm over all."""
    p = holm(np.concatenate([paired_p_values(cell.net, cell.clusters) for cell in cells]))
    each = zip(cells, p.reshape(-1, N_LAYERS), strict=True)
    return any(one[17] < 0.05 for cell, one in each if cell.capability == "capability 0")


def gain_rates(n_runs: int = N_GAINS, seed: int = 0) -> pd.DataFrame:
    """Rate at which a changed model is said to do better at a task, falsely and rightly.

    Three tasks are known a little, or well, and answered anew under every change. Of a fourth,
    guessed on, layer 17 brings as many points as are given, or none. Of two known tasks of one
    capability layer 17 brings the one what it costs the other.
    """
    rows: list[dict[str, Any]] = []
    for right in (0.25, 0.3, 0.35, 0.4, 0.8):
        for gain in (0.0, 0.2, 0.32):
            rng = np.random.default_rng([seed, int(100 * right), int(100 * gain)])
            false, found = 0, dict.fromkeys((HIDDEN, RAISED), 0)
            for _ in range(n_runs):
                cells = made_up_cells(
                    rng,
                    [
                        MadeUpCapability(
                            (profile(),) * 3, 60, right, 1, 2 * right * (1 - right), 0.0
                        )
                    ],
                )
                cells += [_hidden_cell(rng, gain), *_trading_cells(rng, gain)]
                signal = signals(cells, lambda task, protocol: CHANCE)
                sure = {(row["tasks"], row["layer"])
                        for row in task_gains(cells, signal, lambda *_: CHANCE).to_dict("records")
                        if row["established"]}  # fmt: skip
                true = sure & set(found) if gain else set()
                for place in true:
                    found[place] += 1
                false += len(sure) > len(true)
            interval = exact_interval(false, n_runs)
            rows.append({"right": right, "gain": gain, "runs": n_runs, "found": found[HIDDEN],
                         "raised": found[RAISED], "false": false, "rate": false / n_runs,
                         "low": interval.low, "high": interval.high})  # fmt: skip
    return pd.DataFrame(rows)


def _hidden_cell(rng: np.random.Generator, gain: float) -> Cell:
    """A task that the intact model guesses on, and layer 17 hides."""
    (cell,) = made_up_cells(rng, [MadeUpCapability((profile(),), 60, CHANCE, 1, 0.06)])
    cell.correct[:, HIDDEN[1]] |= rng.random(60) < gain / (1 - CHANCE)
    return cell._replace(task=HIDDEN[0])


def _trading_cells(rng: np.random.Generator, gain: float) -> list[Cell]:
    """Two tasks of a capability: without layer 17 the one gains what the other loses."""
    lost = profile(l17=gain)
    better, worse = made_up_cells(rng, [MadeUpCapability((profile(), lost), 60, 0.6, 1)])
    better.correct[:, RAISED[1]] |= rng.random(60) < gain / 0.4
    return [better._replace(task=RAISED[0]), worse]
