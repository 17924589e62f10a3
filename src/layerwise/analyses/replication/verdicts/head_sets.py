"""Tests of claims on small sets of heads, from the answers without them and without random sets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.analyses.head_sets.tables import CHOSEN, records_by_set, tables_by_target
from layerwise.errors import count_noun
from layerwise.stats.cells import cells
from layerwise.stats.contrasts import Contrast, layer_weights, share_contrast
from layerwise.stats.pools import Pool
from layerwise.stats.share_tests.equivalence import no_loss_p_values

from .claim import ClaimTest, NoTest, Number, Verdict, hold_every_way, no_test
from .evidence import Evidence

TABLE = "head_sets"
"""Name of the rows in an ``Evidence``: ``head_sets.parquet`` with each row's chance."""
FEWEST_RANDOM = 5  # fewer random sets are no baseline
SMALLEST_LOSS = 0.05  # a loss of accuracy that matters, fixed beforehand
SHARE, PERCENT = "% of the score", 100
BEYOND_MEAN = "beyond the mean of random sets"
BEYOND_WORST = "beyond the costliest random set"


def evidence_of_sets(evidence: Evidence, by: str) -> Evidence:
    """The answers without the heads that were chosen in one way, and without each random set.

    Sets stand in place of layers, the chosen one as number 0.
    """
    table = evidence.tables.get(TABLE, pd.DataFrame())
    table = table.loc[table["by"] == by] if len(table) else table
    if table.empty:
        return Evidence({}, {}, frozenset(), 0, {})
    rows = table.drop_duplicates(["task", "protocol"])
    keys = zip(rows["task"], rows["protocol"], strict=True)
    chance = dict(zip(keys, rows["chance"].astype(float), strict=True))
    every = [
        cell for _, group in tables_by_target(table) for cell in cells(records_by_set(group))
    ]  # fmt: skip
    n_sets = min(len(cell.interventions) for cell in every)
    every = [cell.select_interventions(np.arange(n_sets)) for cell in every]
    return Evidence.from_cells(every, lambda *key: chance[key], n_sets)


def no_set_test(sets: Evidence, part: str, words: str) -> NoTest:
    """A set of heads that was not tested, with the reason: none chosen, or no signal."""
    if not sets.asked:
        why = "No head was chosen, or no other heads were left to draw random sets from."
        return NoTest(part, Verdict.NOT_ASKED, why)
    return no_test(sets, part, words)


def set_test(
    part: str, pool: Pool, effect: str, more: Mapping[str, Contrast]
) -> ClaimTest | NoTest:
    """A test that a set costs more than random ones, and of ``more`` that must be above 0, too.

    It must cost more than the mean of the random sets, more than each of them, and more than one
    more of them would be expected to. The opposite is that it is shown to cost less than 5 accuracy
    points, or less than the median random set.
    """
    random = pool.layers[pool.layers != CHOSEN]
    if len(random) < FEWEST_RANDOM:
        drawn = count_noun(len(random), "random set")
        why = f"Only {drawn} could be drawn; it takes {FEWEST_RANDOM}."
        return NoTest(part, Verdict.NOT_ASKED, why)

    def contrast(more_of: list[int], less_of: list[int]) -> Contrast:
        return share_contrast(pool, layer_weights(pool.layers, more_of, less_of))

    each = [contrast([CHOSEN], [number]) for number in random.tolist()]
    ways = {
        BEYOND_MEAN: contrast([CHOSEN], random.tolist()),
        BEYOND_WORST: max(each, key=lambda one: one.p_above()),
        **more,
    }
    ranked = random[np.argsort(pool.loss[:, pool.layers != CHOSEN].sum(axis=0), kind="stable")]
    middle = ranked[(len(ranked) - 1) // 2 : len(ranked) // 2 + 1].tolist()
    spared = max(
        float(no_loss_p_values(one.loss, SMALLEST_LOSS, one.clusters)[pool.layers == CHOSEN][0])
        for one in pool.parts
    )
    p_opposite = min(1.0, 2 * min(spared, contrast([CHOSEN], middle).p_below()))
    losses = pool.shares(pool.loss)[0]
    at_chosen = pool.layers == CHOSEN
    unlike = further_set_p_value(losses[at_chosen][0], losses[~at_chosen], pool.least_error)
    test = hold_every_way(
        part, SHARE, effect, "what must be above 0, where it is smallest", ways, PERCENT
    )
    lost = {"lost without the set": [CHOSEN], "lost without a random set": random.tolist()}
    levels = (Number.from_contrast(label, contrast(of, []), PERCENT) for label, of in lost.items())
    return test._replace(
        p_holds=max(test.p_holds, unlike), p_opposite=p_opposite, numbers=(*levels, *test.numbers)
    )


def further_set_p_value(chosen: float, random: Float[np.ndarray, " sets"], least: float) -> float:
    """One-sided p-value of "the chosen set is one more random set", by a t-test over sets.

    Tests over items take the sets as they are. Were sets unlike each other and the chosen one any
    of them, it would be the costliest of 21 in 1 of 21 runs, which no correction over claims could
    lower. ``least`` is the smallest spread of sets that so few items can show.
    """
    from scipy.special import stdtr

    n = len(random)
    spread = max(float(random.std(ddof=1)), least)
    away = (chosen - float(random.mean())) / (spread * np.sqrt(1 + 1 / n))
    return float(stdtr(n - 1, -away))
