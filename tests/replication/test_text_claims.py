"""Claims on running text: verdicts in worlds whose truth is known, and runs without any task."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr

import layerwise as lw
from analyses.validity import text_claims as made_up
from layerwise.analyses.replication.api import select_claims
from layerwise.analyses.replication.verdicts.claim import Number, Verdict, bound_p_values
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.errors import UserError
from layerwise.results import ReplicationResult, TextLossResult
from tests.cases import data_sets, most_errors
from tests.every import toy_text
from tests.models.tiny import tiny_model
from tests.stopping import stop_after


def evidence_of(world: made_up.TextWorld, seed: int = 0) -> Evidence:
    """The evidence of a made-up model and text."""
    rng = np.random.default_rng(seed)
    cells = [
        cell for cell in made_up.made_up_cells(rng, world.answers) if cell.task == made_up.TEXT_TASK
    ]
    tables = {"text_loss": made_up.made_up_text(rng, world)}
    return Evidence.from_cells(
        cells,
        lambda _, protocol: 0.0 if protocol == "generate" else 0.25,
        made_up.N_LAYERS,
        tables,
    )


def verdict(claim: str, evidence: Evidence) -> dict:
    """The one row of a claim's verdict."""
    (row,) = judge(select_claims([claim]), evidence)["verdicts"].to_dict("records")
    return row


def text_world(name: str) -> made_up.TextWorld:
    """A world of text by its name."""
    return next(one for one in made_up.text_worlds() if one.name == name)


@pytest.mark.long
def test_costs_that_are_unrelated_hold_and_costs_that_go_together_do_not():
    row = verdict("neeraj-1", evidence_of(text_world("unrelated")))
    assert row["verdict"] == Verdict.HOLDS
    assert -0.5 < row["low"] < row["high"] < 0.5
    row = verdict("neeraj-1", evidence_of(text_world("rho = 0.5")))
    assert row["verdict"] == Verdict.OPPOSITE
    assert row["low"] > 0


def test_the_correlation_is_spearmans_of_the_means():
    evidence = evidence_of(text_world("rho = 0.5"))
    row = verdict("neeraj-1", evidence)
    text = evidence.tables["text_loss"]
    skips = text.loc[text["kind"] == "skip"]
    intact = text.loc[text["kind"] == "intact"].set_index("piece")["nats"]
    lost = skips["nats"] - skips["piece"].map(intact)
    bits = (lost / skips["n_bytes"]).groupby(skips["layer"]).mean()
    answers = evidence.cells["arithmetic", "generate"]
    rho = spearmanr(bits, answers.intact.mean() - answers.correct.mean(axis=0)).statistic
    assert row["estimate"] == pytest.approx(rho)


@pytest.mark.long
def test_layers_that_cost_no_answers_are_no_evidence():
    rows = [verdict("neeraj-1", evidence_of(text_world("no layer costs answers"), seed))
            for seed in range(6)]  # fmt: skip
    assert [row["verdict"] for row in rows] == [Verdict.OPEN] * 6


def test_next_tokens_that_stay_and_that_do_not():
    first = made_up.kept_worlds()[0]
    both = {
        Verdict.HOLDS: {"skip": 0.85, "swap": 0.8},
        Verdict.OPPOSITE: {"skip": 0.6, "swap": 0.5},
        Verdict.OPEN: {"skip": 0.85, "swap": 0.5},
    }
    for expected, kept in both.items():
        row = verdict("lad-2", evidence_of(first._replace(kept=kept)))
        assert row["verdict"] == expected
    numbers = judge(select_claims(["lad-2"]), evidence_of(first))["verdict_numbers"]
    assert numbers["label"].tolist() == ["a middle layer skipped", "two middle layers swapped"]
    assert numbers["estimate"].tolist() == pytest.approx([72, 72], abs=3)


def test_only_the_middle_half_counts_and_a_swap_lies_in_it_with_both_layers():
    evidence = evidence_of(made_up.kept_worlds()[0])
    rows = evidence.tables["text_loss"].assign(agree=0.0)
    middle = (rows["layer"] >= 6) & (rows["layer"] < 18 - (rows["kind"] == "swap"))
    changed = rows.assign(agree=rows["agree"].where(~middle, 0.9))
    numbers = judge(select_claims(["lad-2"]), Evidence.from_cells(
        [], lambda *_: 0.0, made_up.N_LAYERS, {"text_loss": changed}
    ))["verdict_numbers"]  # fmt: skip
    assert numbers["estimate"].tolist() == pytest.approx([90, 90])


def test_a_claim_without_its_measurement_is_not_asked():
    first = made_up.kept_worlds()[0]
    evidence = evidence_of(first)
    bare = Evidence.from_cells([], lambda *_: 0.0, made_up.N_LAYERS)
    for claim in ("lad-2", "neeraj-1"):
        assert verdict(claim, bare)["verdict"] == Verdict.NOT_ASKED
    text = evidence.tables["text_loss"]
    skips = Evidence.from_cells([], lambda *_: 0.0, made_up.N_LAYERS,
                                {"text_loss": text.loc[text["kind"] != "swap"]})  # fmt: skip
    row = verdict("lad-2", skips)
    assert row["verdict"] == Verdict.NOT_ASKED
    assert "can be swapped" in row["note"]


def test_p_values_against_a_bound_are_normal():
    under, over = bound_p_values(Number("", 0.4, 0.2, 0.5, 9), 0.6)
    assert under == pytest.approx(norm.cdf(-0.2 / (0.1 / 1.96)))
    assert over == pytest.approx(norm.sf(-0.2 / (0.2 / 1.96)))


def replicated(model, *claims: str, **options) -> list:
    """The results of a replication, in its folder."""
    lw.replicate(model, claims, progress=False, **options)
    return lw.load(options["out"])


@pytest.mark.long
def test_a_claim_that_needs_no_task_is_asked_alone_and_goes_on(tmp_path):
    model, text = lw.load_model("organism-letters"), toy_text()
    whole = replicated(model, "lad-2", text=text, out=tmp_path / "whole")
    kinds = {type(one) for one in whole}
    assert kinds == {TextLossResult, ReplicationResult}
    verdicts = next(one for one in whole if isinstance(one, ReplicationResult)).verdicts
    assert verdicts["verdict"].tolist()[0] in (Verdict.HOLDS, Verdict.OPPOSITE, Verdict.OPEN)
    assert 0 <= verdicts["estimate"].iloc[0] <= 100
    with stop_after(3):
        lw.replicate(model, "lad-2", text=text, out=tmp_path / "again", progress=False)
    again = replicated(model, "lad-2", text=text, out=tmp_path / "again")
    for one, other in zip(whole, again, strict=True):
        for name in one.tables:
            pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert lw.verify(tmp_path / "again").ok
    assert "Published claims" in lw.report(again).html


def test_a_model_that_cannot_read_the_text_is_told_why():
    model = lw.load_model("organism-letters")
    for claims in (["lad-2"], ["lad-2", "lad-1"]):
        result = lw.replicate(model, claims, limit=8, progress=False)
        row = result.verdicts.set_index("claim").loc["lad-2"]
        assert row["verdict"] == Verdict.NOT_ASKED
        assert "does not know" in row["note"]


def test_a_text_that_no_claim_reads_is_refused():
    with pytest.raises(UserError, match=r"None of these claims reads a text: .*neeraj-1"):
        lw.replicate(tiny_model("gpt2"), "song-3", text=toy_text())


@pytest.mark.long
def test_false_verdicts_on_text_are_as_rare_as_stated():
    n_runs = data_sets(8)
    rates = made_up.text_verdict_rates(n_runs)
    false = rates.loc[rates["false"]]
    assert (false["found"] <= most_errors(n_runs)).all(), false.query("found > 0").to_string()
