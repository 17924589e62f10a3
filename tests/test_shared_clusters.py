"""What several tasks ask for together: drawn together wherever their means are joined."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.analyses.removal.tables import curves_table
from layerwise.stats.clusters import Clusters, sample_and_joint_resamples
from layerwise.storage.parquet import frame
from tests.cases import data_sets, most_errors
from tests.test_removal_floor import rows_of

N, KEPT = 40, 0.4
TASKS = ("facts", "facts-open-book")


def test_tasks_draw_what_they_share_together_and_the_rest_by_itself():
    one, other = Clusters.of(["a", "a", "b", None]), Clusters.of(["c", "b", None])
    first, second = sample_and_joint_resamples([one, other], 500, 0)
    assert (first[0] == 1).all()
    assert (second[0] == 1).all()
    assert (first[:, one.row_of_label["b"]] == second[:, other.row_of_label["b"]]).all()
    # five clusters in all: a, b, c, and an item of each task
    total = first.sum(axis=1) + second.sum(axis=1) - first[:, one.row_of_label["b"]]
    assert (total == 5).all()


def test_facts_asked_in_two_tasks_are_missed_no_more_often_than_stated():
    """Of 40 facts each asked in two tasks; drawn apart, intervals miss in one of seven."""
    n, missed = data_sets(120), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        kept, parts = rng.random(N) < KEPT, []
        for task in TASKS:
            mine = np.where(rng.random(N) < 0.9, kept, rng.random(N) < KEPT)
            always, never = np.ones(N, dtype=bool), np.zeros(N, dtype=bool)
            for split in ("selection", "held out"):
                answers = {"intact": always, "no layers": never, "1": mine}
                named = rows_of(answers, split, task)
                parts += [row | {"cluster": f"fact {int(row['item'][-3:])}"} for row in named]
        table = curves_table(frame("removal", parts), lambda task, protocol: 0.25, 0)
        row = pd.Series(table.iloc[0])
        assert row["n_tasks"] == 2
        missed += not row["share_low"] <= 1 - KEPT <= row["share_high"]
    assert missed <= most_errors(n)
