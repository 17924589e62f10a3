"""Steps of the ladder of models that hardly know the answers: told as rarely as stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.ablation.scoring_steps import step_tables
from layerwise.stats.cells import cells
from layerwise.stats.signals.signal import signals
from tests import synthetic, weak
from tests.cases import data_sets, in_long_runs, most_errors
from tests.comparing import CHANCE, answers

SCORING_STEPS = dict(zip(weak.PROTOCOLS, ("letter", "choice", "generate"), strict=True))


def steps_of(
    rng: np.random.Generator, accuracy: float, hits: dict[int, float], n_tasks: int = 9
) -> pd.DataFrame:
    """Tasks named by letter more often than by text; all rungs need the same layer, or none."""
    n, n_layers, parts = 100, 3, []
    names = [f"task {i}" for i in range(n_tasks)]
    for task in names:
        for protocol, right in zip(SCORING_STEPS, (0.8, accuracy, accuracy), strict=True):
            drawn = answers(rng, rng.random(n) < right, hits, n_layers, 1.0, right)
            floor = rng.random(n) < CHANCE
            parts.append(synthetic.cell_records(drawn, task, task, protocol, floor))
    records = pd.concat(parts, ignore_index=True)
    tasks = [
        synthetic.task_facts(task, task, n_items=n).model_copy(
            update={"chance": dict.fromkeys(SCORING_STEPS, CHANCE)}
        )
        for task in names
    ]
    facts = synthetic.facts(*tasks, n_layers=n_layers, protocols=tuple(SCORING_STEPS))
    signal = signals(list(cells(records)), facts.chance)
    ladder = pd.DataFrame(
        {"task": task, "capability": task, "kind": "skip", "site": "layer",
         "rung": SCORING_STEPS[protocol], "signal": able}
        for (task, protocol), able in signal.items()
    )  # fmt: skip
    return step_tables(records, ladder, facts)["ladder_steps"]


def told(several: Sequence[pd.DataFrame]) -> int:
    return sum(bool((each["p_holm"] < 0.05).any()) for each in several)


@pytest.mark.parametrize(
    ("accuracy", "hits"), [(0.36, {}), *in_long_runs((0.4, {}), (0.4, {2: 1.0}), (0.45, {2: 1.0}))]
)
def test_steps_between_rungs_that_need_the_same_layer_are_told_as_rarely_as_stated(accuracy, hits):
    """The rungs compared are those on which the model was lucky."""
    n = data_sets(40)
    found = [steps_of(np.random.default_rng(seed), accuracy, hits) for seed in range(n)]
    assert sum(len(each) > 0 for each in found) > n / 10
    assert told(found) <= most_errors(n)


def test_steps_of_rungs_without_signal_count_among_the_tests():
    rng = np.random.default_rng(0)
    while not 0 < len(found := steps_of(rng, 0.4, {2: 1.0}, n_tasks=2)) < 6:
        continue
    assert found["p_holm"].min() == pytest.approx(min(6 * found["p"].min(), 1.0))
