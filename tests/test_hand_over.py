"""Hand-over in patching: bounds of the layer that is picked, over all tasks of a run."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.patching.analysis import hand_over_layer, hand_overs
from layerwise.analyses.patching.result import PatchingResult
from layerwise.analyses.patching.tables import patching_summary
from layerwise.analyses.registry import run_tables
from tests import synthetic
from tests.cases import data_sets, most_errors
from tests.comparing import row

N_PAIRS, N_LAYERS, N_TASKS = 16, 8, 6
# The mean share by layer of the last position; the changed token has the rest.
SHARE = 1 / (1 + np.exp(-1.2 * (np.arange(N_LAYERS) - 3.6)))
MOVED = int(np.argmax(SHARE > 0.5))
PLACES = ("last", "last changed")


def run_of_tasks(seed: int, n_tasks: int = N_TASKS) -> PatchingResult:
    """Tasks that all hand over alike; how early a pair does varies, more so in its middle."""
    rng, tables = np.random.default_rng(seed), []
    for i in range(n_tasks):
        task = f"task {i}"
        own = rng.normal(0, 0.9, size=(N_PAIRS, 1)) * np.sqrt(SHARE * (1 - SHARE))
        shares = SHARE + own + rng.normal(0, 0.03, size=(N_PAIRS, N_LAYERS))
        for place, values in zip(PLACES, (shares, 1 - shares), strict=True):
            tables.append(
                synthetic.patching_result(values, task, "retrieval", label=place).patching
            )
    facts = synthetic.patching_result(np.zeros((N_PAIRS, N_LAYERS)), "task 0", "retrieval").facts
    return PatchingResult(pd.concat(tables, ignore_index=True), facts)


@cache
def miss_counts() -> dict[str, int]:
    """In how many runs any sentence has bounds that miss: of the layer, of a share."""
    found = {"layer": 0, "share": 0, "layer alone": 0, "share alone": 0, "told": 0}
    for seed in range(data_sets(30)):
        summary = patching_summary(run_of_tasks(seed).patching, seed)
        alone = summary.assign(
            recovered_run_low=summary["recovered_low"], recovered_run_high=summary["recovered_high"]
        )
        for name, table in (("", summary), (" alone", alone)):
            each = [_misses(group) for _, group in table.groupby("task")]
            told = [one for one in each if one is not None]
            found["layer" + name] += any(layer for layer, _ in told)
            found["share" + name] += any(share for _, share in told)
            found["told"] += 0 if name else len(told)
    return found


def _misses(mine: pd.DataFrame) -> tuple[bool, bool] | None:
    bounds = hand_over_layer(mine, "last changed")
    if bounds is None:
        return None
    middle, low, high = bounds
    away = []
    for place, true in zip(PLACES, (SHARE[middle], 1 - SHARE[middle]), strict=True):
        cell = row(mine, layer=middle, pos_label=place)
        away.append(not cell["recovered_run_low"] <= true <= cell["recovered_run_high"])
    return not low <= MOVED <= high, any(away)


@pytest.mark.long
@pytest.mark.parametrize("what", ["layer", "share"])
def test_bounds_of_hand_overs_cover_together_over_all_tasks_of_a_run(what):
    assert miss_counts()[what] <= most_errors(data_sets(30))


@pytest.mark.long
def test_bounds_of_single_cells_would_not():
    assert miss_counts()["share alone"] > most_errors(data_sets(30))


def test_most_hand_overs_are_told_nevertheless():
    assert miss_counts()["told"] > 0.9 * N_TASKS * data_sets(30)


def test_a_sentence_says_what_its_bounds_cover():
    (first, *_) = hand_overs(run_tables([run_of_tasks(0, 2)]))
    assert first.estimate is not None
    assert first.estimate.bounds == "bounds for all that the run patched together"
    assert first.caveat == "The intact model's accuracy was not measured."


def test_an_answer_that_rests_at_a_third_position_is_no_move_from_one_to_the_other():
    """It leaves the changed token in layer 2 and reaches the last position in layer 5."""
    rng, layers, tables = np.random.default_rng(0), np.arange(N_LAYERS), []
    for place, share in (("last", layers >= 6), ("last changed", layers < 3)):
        values = share + rng.normal(0, 0.02, size=(N_PAIRS, N_LAYERS))
        tables.append(synthetic.patching_result(values, "task", "retrieval", label=place).patching)
    facts = synthetic.patching_result(np.zeros((N_PAIRS, N_LAYERS)), "task", "retrieval").facts
    (claim,) = hand_overs(run_tables([PatchingResult(pd.concat(tables, ignore_index=True), facts)]))
    assert "moves from" not in claim.full
    assert "leaves the changed word in layer 2 and reaches the last token in 5 when" in claim.short
    assert (claim.layers, claim.evidence) == ((2, 5), "in its table")
    assert "In between it is at neither." in claim.details
