"""Which layers a capability needs, which it needs more than another does, and which it can spare.

The answers of a capability's tasks and protocols are pooled by item, so that a run asks one
question of each capability and layer. ``docs/statistics.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from layerwise.stats.cells import Cell, cells
from layerwise.stats.depth.item_curves import beyond_background
from layerwise.stats.families.estimate import exact_difference_bounds
from layerwise.stats.inference import holm
from layerwise.stats.items.clusters import Clusters, independent_items, paired_p_values
from layerwise.stats.items.crossed import crossed_means
from layerwise.stats.share_tests.equivalence import no_loss_p_values
from layerwise.stats.signals.signal import signal_p_values, signals
from layerwise.storage.parquet import conform, frame

LEVEL = 0.05
# The change that is meant where several were made.
MAIN = ("skip", "layer")
NEEDED, NEEDED_MORE, SPARE, GAIN = "needed", "needed more", "spare", "gain"
Chance = Callable[[str, str], float]


class Pool(NamedTuple):
    """The answers of one capability, over its tasks and protocols with signal."""

    capability: str
    tasks: tuple[str, ...]  # its tasks with signal
    protocols: tuple[str, ...]  # the protocols under which they have signal
    layers: Int[np.ndarray, " layers"]  # the layers, in the order of the columns
    # Right answers of the intact model minus those without each layer.
    loss: Float[np.ndarray, "answers layers"]
    # The same as whole numbers: summed over draws, where an intervention has several.
    net: Int[np.ndarray, "answers layers"]
    intact: Float[np.ndarray, " answers"]  # right answers of the intact model
    floor: Float[np.ndarray, " answers"]  # right answers that are left without any layer, or chance
    protocol: Shaped[np.ndarray, " answers"]
    # Which answers are about the same item, or about items that ask for the same.
    clusters: Clusters
    n_choices: int  # in how many ways as many tasks and protocols could have had signal
    # Losses with each draw of few-shot examples, where there are several.
    draws: Float[np.ndarray, "draws answers layers"] | None = None

    @property
    def scale(self) -> float:
        """The accuracy that the layers bring: that of the intact model above the floor."""
        return float((self.intact - self.floor).mean())

    def under(self, protocols: Sequence[str]) -> Pool:
        """The answers under some of the protocols alone."""
        chosen = np.isin(self.protocol, protocols)
        return self._replace(
            protocols=tuple(name for name in self.protocols if name in protocols),
            protocol=self.protocol[chosen],
            loss=self.loss[chosen],
            net=self.net[chosen],
            intact=self.intact[chosen],
            floor=self.floor[chosen],
            clusters=self.clusters.only(chosen),
        )

    def shares(
        self, loss: Float[np.ndarray, "answers layers"]
    ) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, "clusters layers"]]:
        """Mean losses as shares of the scale, and how far each cluster moves them."""
        # A share is the mean over protocols, whatever number of tasks has signal under each. The
        # squared moves sum to its variance.
        share, away = np.zeros(loss.shape[1]), np.zeros(loss.shape)
        above, weight = self.intact - self.floor, self._weights()
        for name in self.protocols:
            rows = self.protocol == name
            weighted = (weight[rows, None] * loss[rows]).sum(axis=0)
            share += weighted
            away[rows] = weight[rows, None] * (
                loss[rows] - len(self.protocols) * weighted * above[rows, None]
            )
        n = self.clusters.n
        return share, self.clusters.sums(away) * np.sqrt(n / (n - 1))

    def _weights(self) -> Float[np.ndarray, " answers"]:
        """Weight of each answer's loss in the share."""
        weight = np.zeros(len(self.loss))
        for name in self.protocols:
            rows = self.protocol == name
            whole = (self.intact - self.floor)[rows].sum()
            weight[rows] = 1 / (whole * len(self.protocols)) if whole > 0 else 0.0
        return weight

    @property
    def least_error(self) -> float:
        """Standard error of a share if a single cluster had another outcome than all others."""
        # A sample in which all agree has no spread to see.
        return float(self.clusters.sums(self._weights()).max())


def pools(
    cells: Sequence[Cell], signal: Mapping[tuple[str, str], bool], floors: Mapping[Any, np.ndarray]
) -> list[Pool]:
    """The answers of each capability that has signal somewhere."""
    pooled = []
    for capability in dict.fromkeys(cell.capability for cell in cells):
        every = [cell for cell in cells if cell.capability == capability]
        known = [c for c in every if signal[c.task, c.protocol] and len(c.interventions)]
        if known:
            pooled.append(_pool_of(known, floors, comb(len(every), len(known))))
    return [pool for pool in pooled if pool.clusters.n > 1 and pool.scale > 0]


def _pool_of(cells: Sequence[Cell], floors: Mapping[Any, np.ndarray], n_choices: int) -> Pool:
    """The answers of some cells of one capability, as one pool."""
    swept = [cell.interventions["layer"].to_numpy(dtype=int) for cell in cells]
    layers = sorted(set.intersection(*(set(each.tolist()) for each in swept)))
    columns = [np.flatnonzero(np.isin(each, layers)) for each in swept]
    cut = [cell.only(at) for cell, at in zip(cells, columns, strict=True)]
    draws = None
    if cells[0].of_examples:
        each = [np.stack([draw.change for draw in cell.of_examples]) for cell in cut]
        draws = np.concatenate(each, axis=1)
    labels = [
        f"{cell.task}\0{item}" if label is None else label
        for cell in cells
        for item, label in zip(cell.items, cell.clusters.labels, strict=True)
    ]
    return Pool(
        cells[0].capability,
        tuple(dict.fromkeys(cell.task for cell in cells)),
        tuple(dict.fromkeys(cell.protocol for cell in cells)),
        np.array(layers, dtype=int),
        np.concatenate([cell.change for cell in cut]),
        np.concatenate([cell.net for cell in cut]),
        np.concatenate([cell.intact.astype(float) for cell in cells]),
        np.concatenate([floors[cell.task, cell.protocol] for cell in cells]),
        np.concatenate([np.full(len(cell.intact), cell.protocol) for cell in cells]),
        Clusters.of(labels),
        n_choices,
        draws,
    )


def estimates_table(records: pd.DataFrame, chance: Chance, smallest_loss: float) -> pd.DataFrame:
    """``estimates.parquet``: what each capability needs, needs more than another, can spare."""
    every = list(cells(records, over_examples=True))
    changes = pd.concat([cell.interventions for cell in every] or [pd.DataFrame()])
    single = changes.loc[_is_single(changes)] if len(changes) else changes
    if single.empty:
        return frame("estimates", [])
    names = single[["kind", "site"]].drop_duplicates().to_numpy().tolist()
    kind, site = MAIN if list(MAIN) in names else names[0]
    only = []
    for cell in every:
        change = cell.interventions
        chosen = _is_single(change) & (change["kind"] == kind) & (change["site"] == site)
        only.append(cell.only(chosen.to_numpy(dtype=bool)))
    floors = {(cell.task, cell.protocol): cell.floor(chance(cell.task, cell.protocol))
              for cell in only}  # fmt: skip
    signal = signals(every, chance)
    n_capabilities = len({cell.capability for cell in every})
    of_layers = layer_estimates(pools(only, signal, floors), n_capabilities, smallest_loss)
    table = _joined([of_layers, task_gains(only, signal, chance)])
    if table.empty:
        return frame("estimates", [])
    # of a single capability nothing is compared
    compared = {name: None for name in ("other", "n_other", "share_other") if name not in table}
    return conform("estimates", table.assign(kind=kind, site=site, **compared))


def _is_single(interventions: pd.DataFrame) -> pd.Series:
    """Whether changes are of one layer or part of it: no heads, no sets."""
    return pd.Series(interventions["head"].isna() & (interventions["layers"].map(len) == 1))


def layer_estimates(
    every: Sequence[Pool], n_capabilities: int, smallest_loss: float
) -> pd.DataFrame:
    """Rows of ``estimates.parquet``: what each capability needs, needs more, and can spare."""
    needed, spare = (
        _test_layers(what, every, n_capabilities, smallest_loss) for what in (NEEDED, SPARE)
    )
    return _joined([needed, _needed_more(every, n_capabilities), spare])


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table for table in tables if len(table)] or [pd.DataFrame()])


def task_gains(
    every: Sequence[Cell], signal: Mapping[tuple[str, str], bool], chance: Chance
) -> pd.DataFrame:
    """Test whether a changed model is better than the intact one at a single task."""
    # What one task gains may be lost in another of its capability. Where the intact model has no
    # signal, the changed one must beat all controls, too. Such tasks are partly those in which the
    # intact model was unlucky, so tests of all tasks and protocols count. Other questions were
    # asked of the intact model alone; stated chance is held as well.
    n_tests = len(every) * max((len(cell.interventions) for cell in every), default=0)
    rows = []
    for cell in every:
        several = cell.n_draws is not None or cell.of_examples
        if several or not len(cell.interventions) or cell.clusters.n < 2:
            continue
        pool = _pool_of([cell], {(cell.task, cell.protocol): np.zeros(len(cell.intact))}, 1)
        p = paired_p_values(pool.net, pool.clusters)
        if not signal[cell.task, cell.protocol]:
            changed = [cell._replace(intact=right) for right in cell.correct.T]
            for controls in (changed, [cell._replace(blind=None) for cell in changed]):
                p = np.maximum(p, signal_p_values(controls, chance))
        gain = -pool.loss.mean(axis=0)
        low, high = _loss_bounds(pool, n_tests)
        gains = _rows(GAIN, pool, gain, (-high, -low), np.where(gain > 0, p, 1.0))
        rows.append(gains.assign(share=np.nan))
    return _corrected(rows, n_tests)


def _corrected(tables: Sequence[pd.DataFrame], n_tests: int) -> pd.DataFrame:
    """Holm-corrected p-values and bounds that agree with them."""
    # An established difference lies on its side of 0, whatever the bounds for all tests together
    # say (Holm's simultaneous bounds: Guilbaud 2008, Biom. J. 50; Strassburger and Bretz 2008,
    # Stat. Med. 27).
    table = _joined(tables).reset_index(drop=True)
    if table.empty:
        return table
    p = holm(table["p"].to_numpy(dtype=float), n_tests)
    sure, above = p < LEVEL, table["estimate"] > 0
    held = sure & (table["what"] != SPARE)
    return table.assign(
        low=table["low"].mask(held & above, table["low"].clip(lower=0.0)),
        high=table["high"].mask(held & ~above, table["high"].clip(upper=0.0)),
        p_family=p,
        n_tests=n_tests,
        established=sure,
    )


def _test_layers(
    what: str, every: Sequence[Pool], n_capabilities: int, smallest_loss: float
) -> pd.DataFrame:
    """Test each layer: whether the loss is 0, or whether it is smaller than what is of interest."""
    rows = []
    n_tests = n_capabilities * max((len(pool.layers) for pool in every), default=0)
    for pool in every:
        means = None if pool.draws is None else crossed_means(pool.draws, pool.clusters)
        n_choices = 1
        if what == NEEDED:
            # By exact sign flips of items. Tasks and protocols with signal are partly those that
            # were lucky: any choice of as many could have been tested.
            n_choices, p = pool.n_choices, paired_p_values(pool.net, pool.clusters)
            p = p if means is None else np.maximum(p, means.p_values())
            p = np.minimum(p * n_choices, 1.0)
        else:
            p = no_loss_p_values(pool.loss, smallest_loss, pool.clusters)
            p = p if means is None else np.maximum(p, 1 - means.upper_p_values(smallest_loss))
        bounds = _loss_bounds(pool, n_tests * n_choices)
        rows.append(_rows(what, pool, pool.loss.mean(axis=0), bounds, p))
    return _corrected(rows, n_tests)


def _loss_bounds(pool: Pool, n_tests: int) -> tuple[Float[np.ndarray, " layers"], ...]:
    either_way = np.maximum(pool.loss, 0), np.maximum(-pool.loss, 0)
    n = len(pool.loss)
    worth = np.minimum(*(independent_items(each, pool.clusters) for each in either_way))
    lost, gained = (each.sum(axis=0) * worth / n for each in either_way)
    low, high = exact_difference_bounds(lost, gained, worth, n_tests=n_tests)
    if pool.draws is not None:
        means = crossed_means(pool.draws, pool.clusters)
        reach = means.half_widths(LEVEL / 2 / n_tests)
        low, high = np.minimum(low, means.mean - reach), np.maximum(high, means.mean + reach)
    return low, high


def _needed_more(every: Sequence[Pool], n_capabilities: int) -> pd.DataFrame:
    """Test whether one capability loses more than another, also beyond its background loss."""
    # Both are compared under the protocols that both have signal under. Both contrasts of shares
    # must be significant and agree, so p is the larger one.
    rows = []
    n_layers = max((len(pool.layers) for pool in every), default=0)
    n_tests = comb(n_capabilities, 2) * n_layers
    level = LEVEL / max(n_tests, 1)
    for pair in combinations(every, 2):
        both = [name for name in pair[0].protocols if name in pair[1].protocols]
        # Draws of examples that all items share are no part of Welch's test.
        alike = np.array_equal(pair[0].layers, pair[1].layers) and pair[0].draws is None
        first, second = (pool.under(both) for pool in pair)
        if not both or not alike or min(first.clusters.n, second.clusters.n) < 2:
            continue
        difference, p, reach = _contrast(first, second, first.loss, second.loss, level)
        losses = beyond_background(first.loss), beyond_background(second.loss)
        beyond, p_beyond, _ = _contrast(first, second, *losses, level)
        agree = np.sign(difference) == np.sign(beyond)
        p = np.where(agree, np.maximum(p, p_beyond), 1.0)
        more = difference >= 0
        for pool, less, more_here, sign in ((first, second, more, 1), (second, first, ~more, -1)):
            away = sign * difference
            contrasts = _rows(NEEDED_MORE, pool, away, (away - reach, away + reach), p)
            contrasts = contrasts.assign(
                other=less.capability, n_other=less.clusters.n,
                share=pool.shares(pool.loss)[0], share_other=less.shares(less.loss)[0],
            )  # fmt: skip
            rows.append(contrasts.loc[more_here])
    return _corrected(rows, n_tests)


def _contrast(
    first: Pool,
    second: Pool,
    loss: Float[np.ndarray, "answers layers"],
    other_loss: Float[np.ndarray, "others layers"],
    level: float,
) -> list[Float[np.ndarray, " layers"]]:
    """Difference of two shares lost, its p-value and how far its bounds are away, by layer."""
    # Welch's test (Welch 1947, Biometrika 34) over clusters of items.
    from scipy.special import stdtr, stdtrit

    shares, squared, freedom, moves = [], [], [], []
    for pool, values in ((first, loss), (second, other_loss)):
        share, moved = pool.shares(values)
        shares.append(share)
        moves.append(moved)
        squared.append(np.maximum((moved**2).sum(axis=0), pool.least_error**2))
        freedom.append(pool.clusters.n - 1)
    # covariance from items that both capabilities share; at least 0
    rows, other_rows = first.clusters.shared_with(second.clusters)
    products = moves[0][rows] * moves[1][other_rows]
    total = squared[0] + squared[1] + np.maximum(-2 * products.sum(axis=0), 0.0)
    df = total**2 / sum(each**2 / n for each, n in zip(squared, freedom, strict=True))
    difference, error, df = shares[0] - shares[1], np.sqrt(total), np.minimum(df, sum(freedom))
    p = 2 * stdtr(df, -np.abs(difference) / error)
    return [difference, p, -stdtrit(df, level / 2) * error]


def _rows(
    what: str,
    pool: Pool,
    estimate: Float[np.ndarray, " layers"],
    bounds: Sequence[Float[np.ndarray, " layers"]],
    p: Float[np.ndarray, " layers"],
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "what": what,
            "layer": pool.layers,
            "capability": pool.capability,
            "tasks": ", ".join(pool.tasks),
            "protocols": ", ".join(pool.protocols),
            "n_items": pool.clusters.n,
            "n_answers": len(pool.loss),
            "acc_intact": float(pool.intact.mean()),
            "acc": [float((pool.intact - lost).mean()) for lost in pool.loss.T],
            "estimate": estimate,
            "share": pool.loss.mean(axis=0) / (pool.scale or np.nan),
            "low": bounds[0],
            "high": bounds[1],
            "p": p,
        }
    )
