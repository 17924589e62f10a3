"""Interactions of pairs and Shapley values, with intervals and tests over items.

Definitions are in ``docs/interactions.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.stats.effects import Chance
from layerwise.stats.families.estimate import (
    Ends,
    estimate,
    exact_where_alike,
    mean_columns,
    student,
)
from layerwise.stats.items.clusters import Clusters, above_chance, mean_errors
from layerwise.storage.parquet import conform, frame

from .costs import ACCURACY, MARGIN, NATS, Costs, Player, costs_of

REDUNDANT, OVERLAPPING, NATS_ALONE, NONE = "redundant", "overlapping", "nats alone", "none"
PAIRS, PERMUTATIONS = "pairs", "permutations"
# Four log-probabilities, of an engine that agrees with its reference to 1e-4 nats.
ROUNDING = 4e-4
# Of four answers, each right or wrong, two are added and two taken off.
_MOST_BEYOND = 2.0
_FLIPS, _MOST_SIGNS = 10_000, 20_000_000

PerItem = Float[np.ndarray, "items columns"]


def pairs_table(interactions: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``interaction_pairs.parquet``: what each pair costs beyond the sum of its two."""
    tables = [
        _measured(found, pairs, measure, seed)
        for found in costs_of(interactions, chance)
        if (pairs := _of_pairs(found))
        for measure in found.costs
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
        low[alike], high[alike] = exact_where_alike(mean, n, _MOST_BEYOND, n_tests)
    return low, high


def _of_pairs(found: Costs) -> list[tuple[Player, Player]]:
    """The pairs of players if all were removed."""
    pairs = list(combinations(found.players, 2))
    return pairs if all(pair in found.column for pair in pairs) else []


def _measured(
    found: Costs, pairs: list[tuple[Player, Player]], measure: str, seed: int
) -> pd.DataFrame:
    """The rows of one measure."""
    costs, column = found.costs[measure], found.column
    first, second = (np.array([found.alone(pair[i]) for pair in pairs]) for i in (0, 1))
    both = np.array([column[pair] for pair in pairs])
    beyond = costs[:, both] - costs[:, first] - costs[:, second]
    others = _beyond_others(beyond, pairs, found.players)
    p = _p_values(beyond, found.clusters, stats.generator(seed, found.task, "interactions"))
    places = {
        f"{which}_{part}": [getattr(pair[i], part) for pair in pairs]
        for i, which in enumerate(("first", "second"))
        for part in ("layer", "head")
    }
    table = pd.DataFrame(places).assign(
        **found.named,
        measure=measure,
        n_items=len(costs),
        cost_first=costs[:, first].mean(axis=0),
        cost_second=costs[:, second].mean(axis=0),
        cost_both=costs[:, both].mean(axis=0),
        **_with_bounds("interaction", "", beyond, found, seed, _most(measure, 1)),
        **_with_bounds("excess", "excess_", others, found, seed, _most(measure, 2)),
        p=p,
        signal=found.signal,
        at_floor=_at_floor(found, first, second),
        error=mean_errors(beyond, found.clusters),
        n_clusters=found.clusters.n,
    )
    heads = ["first_head", "second_head"]
    return table.astype(dict.fromkeys(heads, "Int64"))


def _beyond_others(
    beyond: PerItem, pairs: list[tuple[Player, Player]], players: tuple[Player, ...]
) -> PerItem:
    """What a pair's interaction exceeds the mean of those that share one of its two by.

    All nan if there are no others.
    """
    n = len(players)
    if n < 3:
        return np.full(beyond.shape, np.nan)
    within = np.array([[float(player in pair) for player in players] for pair in pairs])
    sums = beyond @ within @ within.T - 2 * beyond
    return beyond - sums / (2 * (n - 2))


def _p_values(
    beyond: PerItem, clusters: Clusters, seed: np.random.Generator
) -> Float[np.ndarray, " columns"]:
    """Sign-flip tests of clusters, with flips enough for a single true pair among all to be found.

    Differences within the engine's accuracy count as none.
    """
    n, m = beyond.shape
    flips = max(_FLIPS, min(20 * m, _MOST_SIGNS // max(n, 1)))
    kept = np.where(np.abs(beyond) < ROUNDING, 0.0, beyond)
    return stats.sign_flip_p_values(clusters.sums(kept), seed=seed, n_flips=flips)


def _at_floor(
    found: Costs, first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"]
) -> np.ndarray:
    """Which of a pair alone already leaves the model not above chance."""
    guesses = np.array(
        [not above_chance(right, found.chance, found.clusters) for right in found.right.T]
    )
    told = np.array(["neither", "first", "second", "both"])
    return told[guesses[first] + 2 * guesses[second]]


def _verdicts(pairs: pd.DataFrame) -> pd.Series:
    """What nats and margin say of each pair together; null where nothing is claimed."""
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
    """``shapley.parquet``: how the cost of removing all is shared out among layers or heads."""
    drawn = [
        tuple(
            Player(int(layer), None if pd.isna(head) else int(head))
            for layer, head in zip(order["layer"], order["head"], strict=True)
        )
        for _, order in orders.sort_values(by="place").groupby("permutation", sort=True)
    ]
    tables = []
    for found in costs_of(interactions, chance):
        for measure in found.costs:
            if pairs := _of_pairs(found):
                tables.append(_by_pairs(found, pairs, measure, seed))
            if drawn:
                tables.append(_by_orders(found, drawn, measure, seed))
    return pd.concat(tables, ignore_index=True) if tables else frame("shapley", [])


def _by_pairs(
    found: Costs, pairs: list[tuple[Player, Player]], measure: str, seed: int
) -> pd.DataFrame:
    """The 2-additive approximation: what a player costs alone, and half of its interactions."""
    costs, column = found.costs[measure], found.column
    alone = {player: costs[:, found.alone(player)] for player in found.players}
    values = {player: cost.copy() for player, cost in alone.items()}
    for one, other in pairs:
        half = (costs[:, column[one, other]] - alone[one] - alone[other]) / 2
        values[one] += half
        values[other] += half
    shares = np.column_stack([values[player] for player in found.players])
    return _shared_out(found, measure, shares, seed, by=PAIRS)


def _by_orders(
    found: Costs, drawn: list[tuple[Player, ...]], measure: str, seed: int
) -> pd.DataFrame:
    """The mean over drawn orders of what a player adds to the cost of those before it."""
    costs, column = found.costs[measure], found.column
    place = {player: i for i, player in enumerate(found.players)}
    shares = np.zeros((len(costs), len(place)))
    means = np.zeros((len(drawn), len(place)))
    for number, order in enumerate(drawn):
        sets = [column[tuple(sorted(order[: i + 1]))] for i in range(len(order))]
        added = np.diff(costs[:, sets], axis=1, prepend=0.0)
        at = [place[player] for player in order]
        shares[:, at] += added / len(drawn)
        means[number, at] = added.mean(axis=0)
    sampling = mean_errors(means, Clusters.apart(len(means)))
    more = {"n_permutations": len(drawn), "se_sampling": sampling}
    return _shared_out(found, measure, shares, seed, by=PERMUTATIONS, **more)


def _shared_out(
    found: Costs, measure: str, shares: PerItem, seed: int, *, by: str, **more: Any
) -> pd.DataFrame:
    alone = found.costs[measure][:, [found.alone(player) for player in found.players]]
    table = pd.DataFrame(
        {
            "layer": [player.layer for player in found.players],
            "head": pd.array([player.head for player in found.players], dtype="Int64"),
        }
    ).assign(
        **found.named,
        measure=measure,
        by=by,
        n_items=len(shares),
        alone=alone.mean(axis=0),
        **_with_bounds("value", "", shares, found, seed),
        se=mean_errors(shares, found.clusters),
        total=shares.mean(axis=0).sum(),
        signal=found.signal,
        **{"n_permutations": pd.NA, "se_sampling": np.nan} | more,
    )
    return conform("shapley", table.astype({"n_permutations": "Int64"}))


def _most(measure: str, times: int) -> float | None:
    """How far an item may lie from the mean, in accuracy; None of what has no bound."""
    return times * _MOST_BEYOND if measure == ACCURACY else None


def _with_bounds(
    name: str, ends: str, values: PerItem, found: Costs, seed: int, most: float | None = None
) -> dict[str, Any]:
    """Means with bootstrap bounds; of values that have a most, exact where all resamples agree."""
    random = stats.generator(seed, found.task)
    columns = mean_columns(name, ends, values, found.clusters, random)
    if most is None:
        return columns
    mean, low, high = columns.values()
    exact = exact_where_alike(mean, np.full(len(mean), found.clusters.n), most)
    bounds = (np.where(low == high, e, b) for e, b in zip(exact, (low, high), strict=True))
    return dict(zip(columns, (mean, *bounds), strict=True))
