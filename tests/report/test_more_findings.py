"""Sentences on paths, estimates and similarity."""

from __future__ import annotations

import pandas as pd
import pytest

from layerwise.analyses.attribution_patching.analysis import estimates_hold
from layerwise.analyses.path_patching.analysis import direct_paths
from layerwise.analyses.registry import run_tables
from layerwise.analyses.similarity.analysis import similarity_predicts
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval
from layerwise.storage.run_tables import RunTables
from tests import synthetic
from tests.report.test_paths_figures import estimates, paths


@pytest.fixture(scope="module")
def path_run() -> RunTables:
    return run_tables([paths()])


def test_the_planted_path_is_named_with_its_share(path_run):
    (claim,) = direct_paths(path_run)
    (row,) = rows(
        path_run.tables["path_effects"], **claim.source["where"], **claim.source["at"]
    ).to_dict("records")
    assert row["sender"] == "head 1.2"
    assert "head 1.2 acts most directly on" in claim.short
    assert claim.estimate is not None
    shares = (100 * row[f"recovered{end}"] for end in ("", "_run_low", "_run_high"))
    assert claim.estimate[:3] == pytest.approx(tuple(shares))
    assert (claim.evidence, claim.p, claim.items) == ("established", row["p_run"], "16 pairs")


@pytest.mark.parametrize(
    ("changes", "n"),
    [
        ({}, 2),
        ({"spearman_low": [-0.1, 0.2]}, 1),
        ({"spearman_p_holm": [0.03, 0.02]}, 2),
        ({"spearman_p_holm": [0.06, 0.02]}, 1),
    ],
)
def test_estimates_are_told_with_their_lowest_correlation(changes, n):
    run = run_tables([estimates(("keys", "facts"))])
    table = run.tables["attribution_agreement"].assign(**changes)
    (claim,) = estimates_hold(RunTables(run.facts, {"attribution_agreement": table}))
    assert f"in {n} of 2 tasks" in claim.full
    if not changes:
        least = table.sort_values(by="spearman", kind="stable").iloc[0]
        assert claim.estimate is not None
        ends = least[["spearman", "spearman_low", "spearman_high"]]
        assert claim.estimate[:3] == pytest.approx(tuple(ends))


def prediction(p_holm: float, rho: float) -> RunTables:
    row = {
        "capability": "reasoning", "protocol": "letter", "predictor": "influence",
        "effect": "nats", "stack": None, "n_layers": 8, "n_items": 20, "n_tasks": 1,
        "tasks": "two-hop",
        "rho": rho, "low": rho - 0.1, "high": rho + 0.1, "p": p_holm, "p_holm": p_holm,
    }  # fmt: skip
    facts = synthetic.facts(synthetic.task_facts("two-hop", "reasoning"), n_layers=8)
    return RunTables(facts, {"prediction": pd.DataFrame([row])})


@pytest.mark.parametrize(("rho", "costs"), [(0.7, "cost more"), (-0.7, "cost less")])
def test_similarity_is_told_where_it_predicts(rho, costs):
    (claim,) = similarity_predicts(prediction(0.01, rho))
    assert costs in claim.short
    assert f"{interval(rho, rho - 0.1, rho + 0.1, 2)} rank correlation over 8 layers" in claim.full
    assert (claim.p, claim.capabilities, claim.tasks) == (0.01, ("reasoning",), ("two-hop",))
    assert similarity_predicts(prediction(0.2, rho)) == []
