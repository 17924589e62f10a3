"""Sentences on paths, estimates and similarity, and how much of all fits on a screen."""

from __future__ import annotations

import pandas as pd
import pytest

from layerwise.analyses.attribution_patching.analysis import estimates_hold
from layerwise.analyses.path_patching.analysis import direct_paths
from layerwise.analyses.registry import tables_of_run
from layerwise.analyses.similarity.analysis import similarity_predicts
from layerwise.presentation.claim import ROLES
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval
from layerwise.report.html import CHARACTERS, MOST, findings_of
from layerwise.storage.run_tables import RunTables
from tests import synthetic
from tests.report.test_paths_figures import estimates, paths


@pytest.fixture(scope="module")
def acting() -> RunTables:
    return tables_of_run([paths()])


def test_the_planted_path_is_named_with_its_share(acting):
    (found,) = direct_paths(acting)
    (row,) = rows(
        acting.tables["path_effects"], **found.source["where"], **found.source["at"]
    ).to_dict("records")
    assert row["sender"] == "head 1.2"
    receiver = {"logits": "the logits", "q:3.1": "receiver q:3.1"}[row["receiver"]]
    assert f"head 1.2 acts most directly on {receiver} when" in found.short
    assert f"takes away {100 * row['recovered']:.0f} % of the logit difference" in found.short
    assert found.estimate is not None
    shares = (100 * row[f"recovered{end}"] for end in ("", "_run_low", "_run_high"))
    assert found.estimate[:3] == pytest.approx(tuple(shares))
    assert (found.evidence, found.p, found.items) == ("established", row["p_run"], "16 pairs")


def test_estimates_are_told_with_their_lowest_correlation():
    run = tables_of_run([estimates(("keys", "facts"))])
    (found,) = estimates_hold(run)
    least = run.tables["attribution_agreement"].sort_values(by="spearman", kind="stable").iloc[0]
    assert found.short.endswith("as true patches do in 2 of 2 tasks.")
    assert found.estimate is not None
    ends = least[["spearman", "spearman_low", "spearman_high"]]
    assert found.estimate[:3] == pytest.approx(tuple(ends))
    assert found.estimate.unit == f"rank correlation over cells on {least['task']}, the lowest"
    doubtful = run.tables["attribution_agreement"].assign(spearman_low=[-0.1, 0.2])
    (found,) = estimates_hold(RunTables(run.facts, {"attribution_agreement": doubtful}))
    assert "in 1 of 2 tasks" in found.full
    few_cells = run.tables["attribution_agreement"].assign(spearman_p=[0.03, 0.01])
    (found,) = estimates_hold(RunTables(run.facts, {"attribution_agreement": few_cells}))
    assert "in 2 of 2 tasks" in found.short
    assert "agree beyond chance there, corrected by Holm over the tasks" in found.full
    few_cells = few_cells.assign(spearman_p=[0.06, 0.01])
    (found,) = estimates_hold(RunTables(run.facts, {"attribution_agreement": few_cells}))
    assert "in 1 of 2 tasks" in found.full
    earlier = run.tables["attribution_agreement"].assign(spearman_p=None)
    (found,) = estimates_hold(RunTables(run.facts, {"attribution_agreement": earlier}))
    assert "in 2 of 2 tasks" in found.short
    assert "Holm" not in found.full


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
    (found,) = similarity_predicts(prediction(0.01, rho))
    assert f"layers that change the stream more {costs} when skipped" in found.short
    assert "Change is block influence, cost is log-probability of right answers." in found.details
    assert f"{interval(rho, rho - 0.1, rho + 0.1, 2)} rank correlation over 8 layers" in found.full
    assert (found.p, found.capabilities, found.tasks) == (0.01, ("reasoning",), ("two-hop",))
    assert similarity_predicts(prediction(0.2, rho)) == []


def test_a_summary_is_no_longer_than_a_screen(run):
    everything = findings_of(run, 100)
    for most in (3, 6, MOST):
        found = findings_of(run, most)
        others = [claim for claim in found if claim.kind not in (*ROLES, "no signal")]
        assert 1 < len(others) <= most
        assert sum(len(claim.short) for claim in others) <= most * CHARACTERS
        assert found[0] == everything[0]
