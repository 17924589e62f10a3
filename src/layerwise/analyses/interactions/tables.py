"""Interactions of pairs and Shapley values, with intervals and tests (docs/interactions.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise import stats
from layerwise.errors import UserError
from layerwise.presentation.naming import name_layer
from layerwise.stats.effects import BASELINES, CONTROLS, INTACT, Chance, signal_table
from layerwise.stats.families.estimate import (
    Ends,
    equal_value_bounds,
    estimate,
    mean_columns,
    student,
)
from layerwise.stats.families.skewed_means import skewed_mean_p_values
from layerwise.stats.items.clusters import (
    Clusters,
    clustered_interval,
    clusters_from_table,
    mean_errors,
)
from layerwise.stats.signals.signal import signals_from_table
from layerwise.storage.parquet import conform, frame

NATS, MARGIN, ACCURACY = "nats", "margin", "accuracy"
MEASURES = {NATS: "gold_logprob", MARGIN: "margin", ACCURACY: "correct"}


class Player(NamedTuple):
    """Layer or head removed as one; a player of the cooperative game whose values are costs."""

    layer: int
    head: int | None = None  # the head, or the key/value group; None for what has none


Players = tuple[Player, ...]


def player_name(layer: int, head: Any = None) -> str:
    """``"7"``, ``"encoder.3"``, or with a head ``"7.2"``; no head is missing or -1."""
    named = name_layer(layer)
    return named if pd.isna(head) or head < 0 else f"{named}.{int(head)}"


def players(layers: Iterable[int], heads: Iterable[int] | None) -> Players:
    """The players of a row of ``interactions.parquet``, in order."""
    if heads is None:
        return tuple(Player(int(layer)) for layer in layers)
    return tuple(Player(int(a), int(b)) for a, b in zip(layers, heads, strict=True))


@dataclass(frozen=True)
class Costs:
    """One task under one protocol."""

    named: dict[str, str]  # task, capability, protocol, and site: what is removed of each layer
    sets: tuple[Players, ...]  # the sets removed, one for each column
    # By measure, a row per item: intact minus removed, in nats or 0 to 1.
    costs: dict[str, Float[np.ndarray, "items sets"]]
    right: Bool[np.ndarray, "items sets"]  # whether an item is answered right without each set
    clusters: Clusters  # which items ask for the same thing
    signal: bool  # whether the intact model is better than blind
    chance: float  # accuracy by guessing

    @cached_property
    def players(self) -> Players:
        """All that is removed, by layer and head."""
        return tuple(sorted({player for removed in self.sets for player in removed}))

    @cached_property
    def column(self) -> dict[Players, int]:
        """The column of each set."""
        return {removed: i for i, removed in enumerate(self.sets)}

    @cached_property
    def pairs(self) -> list[tuple[Player, Player]]:
        """The pairs of players if all were removed."""
        pairs = list(combinations(self.players, 2))
        return pairs if self.column.keys() >= set(pairs) else []

    def single_costs(self, measure: str) -> Float[np.ndarray, "items players"]:
        """Cost of each player alone."""
        return self.costs[measure][:, [self.column[player,] for player in self.players]]


def set_costs(interactions: pd.DataFrame, chance: Chance) -> Iterator[Costs]:
    """Each task and protocol of which something was removed, in alphabetical order."""
    able = signals_from_table(signal_from_interactions(interactions, chance))
    changed = interactions.loc[~_kinds(interactions).isin(CONTROLS)]
    for names, group in changed.groupby(["task", "capability", "protocol"], sort=True):
        task, capability, protocol = map(str, names)
        once = group.drop_duplicates("intervention")
        order = [INTACT, *(name for name in once["intervention"] if name != INTACT)]
        if order == [INTACT] == list(once["intervention"]):
            continue
        doubled = group.duplicated(["item", "intervention"]).any()
        if len(order) > len(once) or doubled or len(group) != len(once) * group["item"].nunique():
            raise UserError(
                f"The interactions of task {task!r} under protocol {protocol!r} are incomplete or "
                "doubled: expected every item once in the intact model and without every set; run "
                "the analysis again."
            )
        removed = dict(
            zip(once["intervention"], map(players, once["layers"], once["heads"]), strict=True)
        )
        wide = {
            measure: group.pivot(index="item", columns="intervention", values=column)
            .reindex(columns=order)
            .to_numpy(dtype=float, na_value=np.nan)
            for measure, column in MEASURES.items()
        }
        site = str(once["site"].iloc[0])
        yield Costs(
            {"task": task, "capability": capability, "protocol": protocol, "site": site},
            sets=tuple(removed[name] for name in order[1:]),
            costs={m: v[:, :1] - v[:, 1:] for m, v in wide.items() if not np.isnan(v).any()},
            right=wide[ACCURACY].astype(bool)[:, 1:],
            clusters=clusters_from_table(group, sorted(set(group["item"]))),
            signal=able[task, protocol],
            chance=chance(task, protocol),
        )


def shown_measure(table: pd.DataFrame) -> str:
    """The measure that a table of interactions or values is shown in: nats where there are any."""
    return NATS if NATS in set(table["measure"]) else ACCURACY


def signal_from_interactions(interactions: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``signal`` of the intact model, by task and protocol."""
    kinds = _kinds(interactions)
    baselines = interactions.assign(kind=kinds, layer=pd.NA).loc[kinds.isin(BASELINES)]
    if not (kinds == INTACT).any():
        return frame("signal", [])
    return signal_table(baselines, chance)


def _kinds(interactions: pd.DataFrame) -> pd.Series:
    """Kind of record of each row, if it is one that others are measured by."""
    return interactions["intervention"].str.partition(":")[0]


REDUNDANT, OVERLAPPING, NATS_ALONE, NONE = "redundant", "overlapping", "nats alone", "none"
PAIRS, PERMUTATIONS = "pairs", "permutations"
# Four log-probabilities, of an engine that agrees with its reference to 1e-4 nats.
ROUNDING = 4e-4
# Of four answers, each right or wrong, two are added and two taken off.
_MOST_BEYOND = 2.0
_DRAWS, _MOST_SIGNS = 10_000, 20_000_000

PerItem = Float[np.ndarray, "items columns"]


def pairs_table(interactions: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``interaction_pairs``: what each pair costs beyond the sum of its two."""
    tables = [
        _measure_rows(costs, measure, seed)
        for costs in set_costs(interactions, chance)
        if costs.pairs
        for measure in costs.costs
    ]
    if not tables:
        return frame("interaction_pairs", [])
    n_asked, cell = interactions.groupby(["task", "protocol"]).ngroups, ["task", "protocol"]
    whole = pd.concat(tables, ignore_index=True)
    table = estimate(whole, _bounds, [*cell, "measure"], by_rate=True, n_asked=n_asked)
    verdicts = [_verdicts(piece) for _, piece in table.groupby(cell, sort=False)]
    return conform("interaction_pairs", table.assign(verdict=pd.concat(verdicts)))


def _bounds(table: pd.DataFrame, n_tests: int) -> Ends:
    """Bounds by Student's t, exact ones in accuracy where all items say the same."""
    low, high = student("interaction")(table, n_tests)
    alike = (table["measure"] == ACCURACY).to_numpy() & (low == high)
    if alike.any():
        mean, n = (table[name].to_numpy()[alike] for name in ("interaction", "n_clusters"))
        low[alike], high[alike] = equal_value_bounds(mean, n, _MOST_BEYOND, n_tests)
    return low, high


def _measure_rows(cell: Costs, measure: str, seed: int) -> pd.DataFrame:
    """The rows of one measure."""
    costs, column, pairs = cell.costs[measure], cell.column, cell.pairs
    first, second = (np.array([column[pair[i],] for pair in pairs]) for i in (0, 1))
    both = np.array([column[pair] for pair in pairs])
    beyond = costs[:, both] - costs[:, first] - costs[:, second]
    others, most = _excess_over_others(beyond, cell), _MOST_BEYOND if measure == ACCURACY else None
    # draws enough for a single true pair among all to be found; within the engine's accuracy
    # differences count as none
    draws = max(_DRAWS, min(40 * len(pairs), _MOST_SIGNS // max(len(costs), 1)))
    kept = cell.clusters.sums(np.where(np.abs(beyond) < ROUNDING, 0.0, beyond))
    generator = stats.generator(seed, cell.named["task"], "interactions")
    p = skewed_mean_p_values(kept, seed=generator, n_draws=draws)
    # which of a pair alone already leaves the model not above chance
    lows = [clustered_interval(right, cell.clusters).low for right in cell.right.T]
    guesses = np.array(lows) <= cell.chance
    names = np.array(["neither", "first", "second", "both"])
    places = {
        f"{which}_{part}": [getattr(pair[i], part) for pair in pairs]
        for i, which in enumerate(("first", "second"))
        for part in ("layer", "head")
    }
    table = pd.DataFrame(places).assign(
        **cell.named,
        measure=measure,
        n_items=len(costs),
        cost_first=costs[:, first].mean(axis=0),
        cost_second=costs[:, second].mean(axis=0),
        cost_both=costs[:, both].mean(axis=0),
        **_with_bounds("interaction", "", beyond, cell, seed, most),
        **_with_bounds("excess", "excess_", others, cell, seed, most and 2 * most),
        p=p,
        signal=cell.signal,
        at_floor=names[guesses[first] + 2 * guesses[second]],
        error=mean_errors(beyond, cell.clusters),
        n_clusters=cell.clusters.n,
    )
    heads = ["first_head", "second_head"]
    return table.astype(dict.fromkeys(heads, "Int64"))


def _excess_over_others(beyond: PerItem, cell: Costs) -> PerItem:
    """Excess of a pair's interaction over the mean of those that share one of its two, if any."""
    n = len(cell.players)
    if n < 3:
        return np.full(beyond.shape, np.nan)
    within = np.array([[float(player in pair) for player in cell.players] for pair in cell.pairs])
    sums = beyond @ within @ within.T - 2 * beyond
    return beyond - sums / (2 * (n - 2))


def _verdicts(pairs: pd.DataFrame) -> pd.Series:
    """Verdict of nats and margin on each pair together; null where nothing is claimed."""
    verdicts = pd.Series(None, index=pairs.index, dtype=object)
    by_measure = {str(name): rows for name, rows in pairs.groupby("measure")}
    if not bool(pairs["signal"].all()) or not {NATS, MARGIN} <= set(by_measure):
        return verdicts
    nats, margin = (
        np.sign(rows["interaction"].to_numpy()) * rows["significant"].to_numpy()
        for rows in (by_measure[NATS], by_measure[MARGIN])
    )
    rules = [(nats > 0) & (margin > 0), (nats < 0) & (margin < 0), nats > 0]
    of_pairs = np.select(rules, [REDUNDANT, OVERLAPPING, NATS_ALONE], NONE)
    for rows in by_measure.values():
        verdicts[rows.index] = of_pairs
    return verdicts


def shapley_table(
    interactions: pd.DataFrame, orders: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``shapley``: how the cost of removing all is shared out among layers or heads."""
    drawn = [
        tuple(
            Player(int(layer), None if pd.isna(head) else int(head))
            for layer, head in zip(order["layer"], order["head"], strict=True)
        )
        for _, order in orders.sort_values(by="place").groupby("permutation", sort=True)
    ]
    tables = []
    for cell in set_costs(interactions, chance):
        for measure in cell.costs:
            if cell.pairs:
                tables.append(_by_pairs(cell, measure, seed))
            if drawn:
                tables.append(_by_orders(cell, drawn, measure, seed))
    return pd.concat(tables, ignore_index=True) if tables else frame("shapley", [])


def _by_pairs(cell: Costs, measure: str, seed: int) -> pd.DataFrame:
    """The 2-additive approximation: what a player costs alone, and half of its interactions."""
    costs, column = cell.costs[measure], cell.column
    place = {player: i for i, player in enumerate(cell.players)}
    alone = cell.single_costs(measure)
    shares = alone.copy()
    for pair in cell.pairs:
        first, other = (place[player] for player in pair)
        half = (costs[:, column[pair]] - alone[:, first] - alone[:, other]) / 2
        shares[:, first] += half
        shares[:, other] += half
    return _shapley_rows(cell, measure, shares, seed, by=PAIRS)


def _by_orders(
    cell: Costs, drawn: list[tuple[Player, ...]], measure: str, seed: int
) -> pd.DataFrame:
    """The mean over drawn orders of what a player adds to the cost of those before it."""
    costs, column = cell.costs[measure], cell.column
    place = {player: i for i, player in enumerate(cell.players)}
    shares = np.zeros((len(costs), len(place)))
    means = np.zeros((len(drawn), len(place)))
    for number, order in enumerate(drawn):
        sets = [column[tuple(sorted(order[: i + 1]))] for i in range(len(order))]
        added = np.diff(costs[:, sets], axis=1, prepend=0.0)
        at = [place[player] for player in order]
        shares[:, at] += added / len(drawn)
        means[number, at] = added.mean(axis=0)
    sampling = mean_errors(means, Clusters.singletons(len(means)))
    more = {"n_permutations": len(drawn), "se_sampling": sampling}
    return _shapley_rows(cell, measure, shares, seed, by=PERMUTATIONS, **more)


def _shapley_rows(
    cell: Costs, measure: str, shares: PerItem, seed: int, *, by: str, **more: Any
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "layer": [player.layer for player in cell.players],
            "head": pd.array([player.head for player in cell.players], dtype="Int64"),
        }
    ).assign(
        **cell.named,
        measure=measure,
        by=by,
        n_items=len(shares),
        alone=cell.single_costs(measure).mean(axis=0),
        **_with_bounds("value", "", shares, cell, seed),
        se=mean_errors(shares, cell.clusters),
        total=shares.mean(axis=0).sum(),
        signal=cell.signal,
        **{"n_permutations": pd.NA, "se_sampling": np.nan} | more,
    )
    return conform("shapley", table.astype({"n_permutations": "Int64"}))


def _with_bounds(
    name: str, ends: str, values: PerItem, cell: Costs, seed: int, most: float | None = None
) -> dict[str, Any]:
    """Means with bootstrap bounds; exact if all resamples agree, of items at most ``most`` away."""
    random = stats.generator(seed, cell.named["task"])
    columns = mean_columns(name, ends, values, cell.clusters, random)
    if most is None:
        return columns
    mean, low, high = columns.values()
    exact = equal_value_bounds(mean, np.full(len(mean), cell.clusters.n), most)
    bounds = (np.where(low == high, e, b) for e, b in zip(exact, (low, high), strict=True))
    return dict(zip(columns, (mean, *bounds), strict=True))
