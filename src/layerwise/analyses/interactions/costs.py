"""What is removed as one, and what removing each set costs each item, as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise.errors import UserError
from layerwise.stats.effects import BASELINES, CONTROLS, INTACT, Chance, signal_table
from layerwise.stats.items.clusters import Clusters, clusters_of
from layerwise.storage.parquet import frame

_CELL = ["item", "intervention"]
NATS, MARGIN, ACCURACY = "nats", "margin", "accuracy"
MEASURES = {NATS: "gold_logprob", MARGIN: "margin", ACCURACY: "correct"}


class Player(NamedTuple):
    """What is removed as one; a player of the cooperative game whose values are costs."""

    layer: int
    head: int | None = None  # the head, or the key/value group; None for what has none


Players = tuple[Player, ...]


def players(layers: Iterable[int], heads: Iterable[int] | None) -> Players:
    """The players of a row of ``interactions.parquet``, in order."""
    if heads is None:
        return tuple(Player(int(layer)) for layer in layers)
    return tuple(Player(int(a), int(b)) for a, b in zip(layers, heads, strict=True))


@dataclass(frozen=True)
class Costs:
    """One task under one protocol."""

    task: str
    capability: str
    protocol: str
    site: str  # what is removed of each layer
    sets: tuple[Players, ...]  # the sets removed, one for each column
    # By measure, a row per item: intact minus removed, in nats or 0 to 1.
    costs: dict[str, Float[np.ndarray, "items sets"]]
    right: Bool[np.ndarray, "items sets"]  # whether an item is answered right without each set
    clusters: Clusters  # which items ask for the same thing
    signal: bool  # whether the intact model is better than blind
    chance: float  # accuracy by guessing

    @property
    def named(self) -> dict[str, str]:
        """The columns that all rows made of it share."""
        return {
            "task": self.task,
            "capability": self.capability,
            "protocol": self.protocol,
            "site": self.site,
        }

    @property
    def players(self) -> Players:
        """All that is removed, by layer and head."""
        return tuple(sorted({player for removed in self.sets for player in removed}))

    @property
    def column(self) -> dict[Players, int]:
        """The column of each set."""
        return {removed: i for i, removed in enumerate(self.sets)}

    def alone(self, player: Player) -> int:
        """The column of what is removed alone."""
        return self.column[(player,)]


def costs_of(interactions: pd.DataFrame, chance: Chance) -> Iterator[Costs]:
    """Each task and protocol of which something was removed, in alphabetical order."""
    signal = signal_of(interactions, chance)
    heard = signal.loc[signal["signal"]]
    able = set(zip(heard["task"], heard["protocol"], strict=True))
    changed = interactions.loc[~_kinds(interactions).isin(CONTROLS)]
    for _, group in changed.groupby(["task", "capability", "protocol"], sort=True):
        if set(group["intervention"]) != {INTACT}:
            place = group["task"].iloc[0], group["protocol"].iloc[0]
            yield _costs(group, chance, place in able)


def _costs(group: pd.DataFrame, chance: Chance, signal: bool) -> Costs:
    task, capability, protocol = (str(group[c].iloc[0]) for c in ("task", "capability", "protocol"))
    once = group.loc[~group["intervention"].duplicated()]
    names = [str(name) for name in once["intervention"]]
    n_rows = len(names) * group["item"].nunique()
    if INTACT not in names or len(group) != n_rows or group.duplicated(_CELL).any():
        raise UserError(
            f"The interactions of task {task!r} under protocol {protocol!r} are incomplete or "
            "doubled: expected every item once in the intact model and without every set; run "
            "the analysis again."
        )
    removed = dict(zip(names, map(players, once["layers"], once["heads"]), strict=True))
    order = [INTACT, *(name for name in names if name != INTACT)]
    wide = {
        measure: group.pivot(index="item", columns="intervention", values=column)
        .reindex(columns=order)
        .to_numpy(dtype=float, na_value=np.nan)
        for measure, column in MEASURES.items()
    }
    level = chance(task, protocol)
    right = wide[ACCURACY].astype(bool)
    return Costs(
        task=task,
        capability=capability,
        protocol=protocol,
        site=str(once["site"].iloc[0]),
        sets=tuple(removed[name] for name in order[1:]),
        costs={m: v[:, :1] - v[:, 1:] for m, v in wide.items() if not np.isnan(v).any()},
        right=right[:, 1:],
        clusters=clusters_of(group, sorted(set(group["item"]))),
        signal=signal,
        chance=level,
    )


def measure_of(table: pd.DataFrame) -> str:
    """The measure that a table of interactions or values is shown in: nats where there are any."""
    return NATS if NATS in set(table["measure"]) else ACCURACY


def signal_of(interactions: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``signal.parquet`` of the intact model, by task and protocol."""
    kinds = _kinds(interactions)
    baselines = interactions.assign(kind=kinds, layer=pd.NA).loc[kinds.isin(BASELINES)]
    if not (kinds == INTACT).any():
        return frame("signal", [])
    return signal_table(baselines, chance)


def _kinds(interactions: pd.DataFrame) -> pd.Series:
    """What kind of record each row is, if it is one that others are measured by."""
    return interactions["intervention"].str.partition(":")[0]
