"""Sentences in made-up worlds in which they used to be false, from records to words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.analyses.ablation.findings import needed_heads
from layerwise.analyses.registry import tables_of_run
from layerwise.results import AblationResult
from tests import synthetic
from tests.cases import data_sets
from tests.synthetic import cell_records

# --- heads: the largest loss, in points --------------------------------------------------------

N_HEADS, EASY, HARD = 4, 1, 3


def heads_of_two_tasks(seed: int) -> AblationResult:
    """A head of an easy task costs more points; one of a hard task costs more of its score."""
    rng, cells, n = np.random.default_rng(seed), [], 120
    for task, accuracy, needed, cost in (("easy", 0.95, EASY, 0.7), ("hard", 0.55, HARD, 0.9)):
        intact = rng.random(n) < accuracy
        right = np.repeat(intact[:, None], N_HEADS + 1, axis=1)
        hit = rng.random(n) < cost
        right[:, needed + 1] = np.where(hit, rng.random(n) < 0.25, intact)
        table = cell_records(right, task, "knowledge", no_layers=rng.random(n) < 0.25)
        changed = table["kind"] == "skip"
        table.loc[changed, ["kind", "site", "head"]] = ["zero", "z", 0]
        table.loc[changed, "intervention"] = [
            f"zero:z,layer={layer},head=0" for layer in table.loc[changed, "layer"]
        ]
        table["heads"] = pd.Series([[0] if one else None for one in changed], table.index)
        cells.append(table)
    return synthetic.ablation(*cells)


def test_the_head_that_is_named_has_the_largest_loss_in_points() -> None:
    """By shares of the score it was the head of the hard task in most data sets."""
    for seed in range(data_sets(12)):
        (claim,) = needed_heads(tables_of_run([heads_of_two_tasks(seed)]))
        assert (claim.tasks, claim.layers) == (("easy",), (EASY,)), seed
