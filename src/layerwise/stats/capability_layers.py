"""Layers that a capability needs, those particular to it, and those it can spare.

The answers of a capability's tasks and protocols are pooled by item, so that a run asks one
question of each capability and layer. ``docs/statistics/layer_claims.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.cells import Cell, cells
from layerwise.stats.crossings import crossings_table
from layerwise.stats.depth.item_curves import subtract_background
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.items.crossed import crossed_means
from layerwise.stats.pools import LEVEL, Pool, match_protocols, pool_cells, pools
from layerwise.stats.share_tests.equivalence import no_loss_p_values
from layerwise.stats.signals.signal import signal_p_values, signals
from layerwise.storage.parquet import conform, frame

# The change that is used if a run made several kinds.
MAIN = ("skip", "layer")
NEEDED, LOSES_MORE, SPARE, GAIN = "needed", "loses more", "spare", "gain"
Chance = Callable[[str, str], float]
_COMPARED = (
    "other", "other_layer", "n_other", "share_other", "acc_intact_other", "acc_other",
    "acc_other_layer", "margin", "margin_other", "tasks_alone", "protocols_alone",
)  # fmt: skip


def estimates_table(records: pd.DataFrame, chance: Chance, smallest_loss: float) -> pd.DataFrame:
    """``capability_estimates``: needed layers, crossings, shares lost, spare layers and gains."""
    every = list(cells(records, over_examples=True))
    changes = pd.concat([cell.interventions for cell in every] or [pd.DataFrame()])
    single = changes.loc[_is_single(changes)] if len(changes) else changes
    if single.empty:
        return frame("capability_estimates", [])
    names = single[["kind", "site"]].drop_duplicates().to_numpy().tolist()
    kind, site = MAIN if list(MAIN) in names else names[0]
    only = []
    for cell in every:
        change = cell.interventions
        chosen = _is_single(change) & (change["kind"] == kind) & (change["site"] == site)
        only.append(cell.select_interventions(chosen.to_numpy(dtype=bool)))
    floors = {(cell.task, cell.protocol): cell.floor(chance(cell.task, cell.protocol))
              for cell in only}  # fmt: skip
    signal = signals(every, chance)
    n_capabilities = len({cell.capability for cell in every})
    of_layers = layer_estimates(pools(only, signal, floors), n_capabilities, smallest_loss)
    table = _concat([of_layers, task_gains(only, signal, chance)])
    if table.empty:
        return frame("capability_estimates", [])
    # of a single capability nothing is compared
    compared = {name: None for name in _COMPARED if name not in table}
    return conform("capability_estimates", table.assign(kind=kind, site=site, **compared))


def _is_single(interventions: pd.DataFrame) -> pd.Series:
    """True if changes are of one layer or part of it: no heads, no sets."""
    return pd.Series(interventions["head"].isna() & (interventions["layers"].map(len) == 1))


def layer_estimates(
    every: Sequence[Pool], n_capabilities: int, smallest_loss: float
) -> pd.DataFrame:
    """Rows of ``capability_estimates``: needed layers, crossings, shares lost, and spare layers."""
    needed, spare = (
        _test_layers(what, every, n_capabilities, smallest_loss) for what in (NEEDED, SPARE)
    )
    compared = crossings_table(every, n_capabilities), _share_contrasts(every, n_capabilities)
    return _concat([needed, *compared, spare])


def _concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
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
        pool = pool_cells([cell], {(cell.task, cell.protocol): np.zeros(len(cell.intact))}, 1)
        p = paired_p_values(pool.net, pool.clusters)
        if not signal[cell.task, cell.protocol]:
            changed = [cell._replace(intact=right) for right in cell.correct.T]
            for controls in (changed, [cell._replace(blind=None) for cell in changed]):
                p = np.maximum(p, signal_p_values(controls, chance))
        gain = -pool.loss.mean(axis=0)
        low, high = _loss_bounds(pool, n_tests)
        gains = _rows(GAIN, pool, gain, (-high, -low), np.where(gain > 0, p, 1.0))
        rows.append(gains.assign(share=np.nan))
    return _correct(rows, n_tests)


def _correct(tables: Sequence[pd.DataFrame], n_tests: int) -> pd.DataFrame:
    """Holm-corrected p-values and bounds that agree with them."""
    # An established difference lies on its side of 0, whatever the bounds for all tests together
    # say (Holm's simultaneous bounds: Guilbaud 2008, Biom. J. 50; Strassburger and Bretz 2008,
    # Stat. Med. 27).
    table = _concat(tables).reset_index(drop=True)
    if table.empty:
        return table
    p = correct_family(table["p"].to_numpy(dtype=float), n_tests)
    sure, above = p < LEVEL, table["estimate"] > 0
    held = sure & (table["what"] != SPARE)
    return table.assign(
        low=table["low"].mask(held & above, table["low"].clip(lower=0.0)),
        high=table["high"].mask(held & ~above, table["high"].clip(upper=0.0)),
        p_table=p,
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
            # A large task without a loss must not hide what a small one loses: each task must show
            # it under each way of scoring (Berger 1982, Technometrics 24).
            each = [no_loss_p_values(one.loss, smallest_loss, one.clusters) for one in pool.parts]
            p = np.max(each, axis=0)
            p = p if means is None else np.maximum(p, 1 - means.upper_p_values(smallest_loss))
        bounds = _loss_bounds(pool, n_tests * n_choices)
        tests = _rows(what, pool, pool.loss.mean(axis=0), bounds, p)
        if what == NEEDED:
            alone = pool.tasks_alone(pool.net), pool.protocols_alone(pool.net)
            tests = tests.assign(tasks_alone=alone[0], protocols_alone=alone[1])
        rows.append(tests)
    return _correct(rows, n_tests)


def _loss_bounds(pool: Pool, n_tests: int) -> tuple[Float[np.ndarray, " layers"], ...]:
    low, high = pool.bounds(pool.loss, n_tests)
    if pool.draws is not None:
        means = crossed_means(pool.draws, pool.clusters)
        reach = means.half_widths(LEVEL / 2 / n_tests)
        low, high = np.minimum(low, means.mean - reach), np.maximum(high, means.mean + reach)
    return low, high


def _share_contrasts(every: Sequence[Pool], n_capabilities: int) -> pd.DataFrame:
    """Test whether one capability loses more of its score than another, also beyond background."""
    # Both contrasts of shares must be significant and agree, so p is the larger one. A difference
    # of shares may be one of difficulty: layers that take the same from the margin of every answer
    # take more of a score whose margins are small.
    rows = []
    n_layers = max((len(pool.layers) for pool in every), default=0)
    n_tests = comb(n_capabilities, 2) * n_layers
    level = LEVEL / max(n_tests, 1)
    for pair in combinations(every, 2):
        compared = match_protocols(*pair)
        if compared is None:
            continue
        first, second = compared
        difference, p, reach = _contrast(first, second, first.loss, second.loss, level)
        losses = subtract_background(first.loss), subtract_background(second.loss)
        beyond, p_beyond, _ = _contrast(first, second, *losses, level)
        agree = np.sign(difference) == np.sign(beyond)
        p = np.where(agree, np.maximum(p, p_beyond), 1.0)
        more = difference >= 0
        for pool, less, more_here, sign in ((first, second, more, 1), (second, first, ~more, -1)):
            away = sign * difference
            contrasts = _rows(LOSES_MORE, pool, away, (away - reach, away + reach), p)
            contrasts = contrasts.assign(
                other=less.capability, n_other=less.clusters.n, share_other=_share(less),
                acc_intact_other=float(less.intact.mean()),
                acc_other=less.intact.mean() - less.loss.mean(axis=0),
                margin=_mean_margin_loss(pool), margin_other=_mean_margin_loss(less),
            )  # fmt: skip
            rows.append(contrasts.loc[more_here])
    return _correct(rows, n_tests)


def _share(pool: Pool) -> Float[np.ndarray, " layers"]:
    return pool.loss.mean(axis=0) / (pool.scale or np.nan)


def _mean_margin_loss(pool: Pool) -> Float[np.ndarray, " layers"]:
    """Nats that the margin of the right answer loses on average; nan where it is never known."""
    known = ~np.isnan(pool.margins).any(axis=1)
    return pool.margins[known].mean(axis=0) if known.any() else np.full(len(pool.layers), np.nan)


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
    rows, other_rows = first.clusters.shared_rows(second.clusters)
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
            "share": _share(pool),
            "low": bounds[0],
            "high": bounds[1],
            "p": p,
        }
    )
