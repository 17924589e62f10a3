"""Claims of a made-up run: which there are, on which rows they stand, and what is not claimed."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import Plan

from layerwise.analyses.patching.analysis import hand_over_layer
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import ROLES, Estimate, save_claims
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import (
    count_noun,
    count_range,
    interval,
    intervention_phrase,
    join_words,
    layer_ranges,
    number,
    p_value,
    protocol_phrase,
    spread,
)
from layerwise.report import Claim, findings
from layerwise.report._answer import first_screen
from layerwise.report._page import Page
from layerwise.report.html import CHARACTERS, MOST, findings_from_tables
from layerwise.results import AblationResult, PatchingResult
from layerwise.stats.share_tests.equivalence import excludable_loss
from layerwise.storage.run_tables import RunTables

EVERYTHING = 100
_RECOVERED = ("recovered", "recovered_run_low", "recovered_run_high")


@pytest.fixture(scope="module")
def run_claims(run: RunTables) -> list[Claim]:
    return findings_from_tables(run, EVERYTHING)


def of_kind(found: list[Claim], kind: str) -> list[Claim]:
    return [finding for finding in found if finding.kind == kind]


def of_table(found: list[Claim], *tables: str) -> list[Claim]:
    return [finding for finding in found if finding.source["table"] in tables]


def claim_rows(run: RunTables, finding: Claim) -> pd.DataFrame:
    return rows(run.tables[finding.source["table"]], **finding.source["where"])


def quoted_rows(run: RunTables, finding: Claim) -> pd.DataFrame:
    return rows(claim_rows(run, finding), **finding.source["at"])


def has_numbers(sentence: str, estimate: float, low: float, high: float, digits: int = 0) -> bool:
    """True if the sentence holds these three numbers, formatted here without the package."""
    texts = [f"{value:.{digits}f}".replace("-", "−") for value in (estimate, low, high)]
    texts = [re.sub(r"^−(0(\.0+)?)$", r"\1", text) for text in texts]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" in sentence


def test_each_kind_of_sentence_is_made(run_claims: list[Claim]) -> None:
    assert {finding.kind for finding in run_claims} == {
        "general",
        "one order",
        "needed",
        "scoring",
        "no loss",
        "lens",
        "patching",
        "order",
        "agreement",
        "no signal",
    }


def test_layers_that_are_needed_are_those_that_were_planted(run, run_claims, plan):
    planted = set.union(*map(set, plan.critical.values()))
    (general,) = of_kind(run_claims, "general")
    assert general.evidence == "established"
    assert set(general.layers) == planted
    assert set(claim_rows(run, general)["what"]) == {"needed"}
    assert claim_rows(run, general)["established"].all()
    for claim in of_kind(run_claims, "needed"):
        assert set(claim.layers) <= planted
        assert " also " not in claim.short
        rows_quoted = quoted_rows(run, claim)
        assert rows_quoted["established"].all()
        assert set(rows_quoted["layer"]) == set(claim.layers)
        assert claim.p is not None
        assert claim.p < 0.05


def test_sentences_of_the_ladder_say_what_the_rows_say(
    run: RunTables, run_claims: list[Claim]
) -> None:
    """The planted sets are nested: every way of scoring needs what an easier one needs."""
    *steps_told, alike = of_table(run_claims, "ladder_steps")
    assert steps_told
    for finding in steps_told:
        assert (finding.kind, finding.evidence) == ("scoring", "established")
        steps = quoted_rows(run, finding)
        for _, row in steps.iterrows():
            assert row["p_holm"] <= finding.p < 0.05
            assert has_numbers(finding.full, *(100 * row[n] for n in ("difference", "low", "high")))
        most = steps.loc[steps["difference"].idxmax()]
        shares = [f"{number(100 * most[f'share_{end}'])} %" for end in ("first", "second")]
        assert f" costs on average {shares[1]} of the score when it " in finding.short
        assert f", {shares[0]} when it " in finding.short
    assert not run.tables["ladder_steps"]["other_layers"].any()
    assert alike.evidence == "not established"


@pytest.mark.long
def test_other_layers_are_told_of_a_double_dissociation() -> None:
    plan = Plan(
        n_layers=12, n_items=80, protocols=("letter", "generate"), silent=(),
        tasks=(("facts", "knowledge"), ("sums", "reasoning")),
        critical={"letter": (2, 5), "generate": (5, 9)},
    )  # fmt: skip
    run = run_tables([AblationResult(synthetic.records(plan), synthetic.facts(plan))])
    claims = of_table(findings_from_tables(run, EVERYTHING), "dissociations", "ladder_steps")
    assert len(claims) == 2
    for claim in claims:
        assert "needs other layers when it writes (most clearly layer 9)" in claim.short
        assert (claim.evidence, claim.layers) == ("established", (2, 9))
        assert set(quoted_rows(run, claim)["layer"]) == {2, 9}
    (shown,) = of_kind(first_screen(run, findings_from_tables(run)).claims, "scoring")
    assert shown in claims


@pytest.mark.long
def test_how_much_a_harder_scoring_costs_stands_in_the_details_alone(small_run: RunTables) -> None:
    """Nobody asks which step of scoring loses more; whether other layers are needed, they do."""
    claims = findings_from_tables(small_run)
    assert {claim.source["table"] for claim in of_kind(claims, "scoring")} == {
        "ladder_steps", "protocol_interaction",
    }  # fmt: skip
    page = Page("run", small_run, claims)
    assert of_kind(page.answer.claims, "scoring") == []
    assert of_kind([claim for claim, _ in page.claims], "scoring") == of_kind(claims, "scoring")
    alone = of_kind(claims, "scoring")
    assert first_screen(small_run, alone).claims == ()


def test_layers_without_loss_are_those_that_the_tests_say(run, run_claims, plan):
    """With 400 items and quiet layers some are shown; planted ones never are."""
    effects = run.tables["effects"]
    planted = effects["layer"].isin(set().union(*map(set, plan.critical.values())))
    quiet = effects.assign(
        p_no_loss=np.where(planted, 0.9, 1e-6), p_no_loss_nats=np.where(planted, 0.9, 1e-4)
    )
    claims = of_kind(
        findings_from_tables(synthetic.with_tables(run, effects=quiet), EVERYTHING), "no loss"
    )
    assert claims
    for claim in claims:
        layers = sorted(set(claim_rows(run, claim)["layer"]) - set(effects.loc[planted, "layer"]))
        assert f" {len(layers)} layers costs less than 5 accuracy points " in claim.short
        assert (claim.evidence, claim.layers) == ("established", tuple(layers))
        assert claim.source["at"] == {"layer": layers}


def test_layers_without_loss_within_their_table_alone_are_not_established(run: RunTables) -> None:
    effects = run.tables["effects"]
    few = effects.assign(p_no_loss=0.9, p_no_loss_nats=np.nan)
    few.loc[few["layer"] == 8, "p_no_loss"] = 0.001  # 0.03 over 30 layers, 0.09 over the run
    told = of_kind(
        findings_from_tables(synthetic.with_tables(run, effects=few), EVERYTHING), "no loss"
    )
    for finding in told:
        assert (finding.evidence, finding.layers) == ("in its table", (8,))
        assert finding.p == pytest.approx(0.03)
        assert finding.short.startswith("Skipping layer 8 costs less than 5 accuracy points")


def test_where_no_layer_is_shown_to_lose_nothing_it_is_told_what_could_be_seen(run, run_claims):
    claims = of_kind(run_claims, "no loss")
    assert claims
    for claim in claims:
        least = 100 * excludable_loss(int(claim_rows(run, claim)["n_items"].min()), 0.05 / 30)
        assert claim.evidence == "not established"
        assert f"no loss below {least:.0f} points could be excluded" in claim.full


def test_lens_sentence_says_what_the_rows_say(run: RunTables, run_claims: list[Claim]) -> None:
    (claim,) = of_table(of_kind(run_claims, "lens"), "emergence")
    of_claim = claim_rows(run, claim)
    assert len(of_claim) == 4
    ends = of_claim.sort_values("layer").iloc[[0, -1]].to_dict("records")
    first, last = (f"{row['layer']:.0f} ({row['capability']})" for row in ends)
    assert f"has risen halfway between layers {first} and {last} when it" in claim.short
    assert claim.items == f"{spread(of_claim['n_items'])} items a capability"
    assert "items whose answer begins as no other option does" in claim.caveat


def test_hand_over_is_at_the_planted_layer(run: RunTables, run_claims: list[Claim]) -> None:
    (claim,) = of_kind(run_claims, "patching")
    assert claim.layers == (11,)  # what enters layer 12 holds it: layer 11 moved it
    for _, row in quoted_rows(run, claim).iterrows():
        assert has_numbers(claim.full, *(100 * row[name] for name in _RECOVERED))
        assert claim.items == f"{row['n_items']} pairs"


@pytest.mark.parametrize(("layer", "found"), [(1, 1), (9, 9), (0, None), (10, None)])
def test_hand_over_is_found_wherever_it_is_planted(layer: int, found: int | None) -> None:
    """None without a change of sides."""
    plan = Plan(n_layers=10, tasks=(("facts", "knowledge"),))
    result = PatchingResult(synthetic.patching_rows(plan, layer), synthetic.facts(plan))
    expected = None if found is None else (found, found, found)
    assert hand_over_layer(result.summary(), "last changed") == expected


def test_order_sentences_say_what_the_rows_say(run: RunTables, run_claims: list[Claim]) -> None:
    before, open_ones = of_kind(run_claims, "order")
    (row,) = quoted_rows(run, before).to_dict("records")
    assert has_numbers(before.full, row["difference"], row["low"], row["high"], 2)
    assert "retrieval comes before knowledge when it writes, about 6 of 30 layers" in before.short
    assert (before.evidence, before.p) == ("established", row["p_holm"])
    assert len(claim_rows(run, before)) == 6
    assert "Difficulty may account for the order" in before.full
    rest = claim_rows(run, open_ones)
    assert open_ones.evidence == "not established"
    assert "retrieval and knowledge" not in open_ones.full
    assert (rest["p_holm"] >= 0.05).all()


def test_an_order_is_told_from_the_earlier_side(run: RunTables) -> None:
    order = run.tables["order"].copy()
    order[["difference", "low", "high"]] = -order[["difference", "high", "low"]].to_numpy()
    claim = of_kind(
        findings_from_tables(synthetic.with_tables(run, order=order), EVERYTHING), "order"
    )[0]
    assert "knowledge comes before retrieval" in claim.full
    assert "0.20 [0.10, 0.30]" in claim.full


def test_no_order_is_told_where_tests_contradict_each_other(run: RunTables) -> None:
    order = run.tables["order"].copy()
    turned = order["significant"] & order["measure"].eq("prediction depth")
    bounds = ["difference", "low", "high"]
    order.loc[turned, bounds] = -order.loc[turned, ["difference", "high", "low"]].to_numpy()
    claim = of_kind(
        findings_from_tables(synthetic.with_tables(run, order=order), EVERYTHING), "order"
    )[0]
    assert claim.short.endswith("comes first depends on how it is measured.")
    assert "Difficulty may account for either order" in claim.full


@pytest.mark.parametrize("p_holm", [None, 0.2])
def test_without_an_order_of_interest_or_a_significant_one_none_is_claimed(run, plan, p_holm):
    order = run.tables["order"].assign(significant=False)
    order = order if p_holm is None else synthetic.order(plan, p_holm)
    (claim,) = of_kind(
        findings_from_tables(synthetic.with_tables(run, order=order), EVERYTHING), "order"
    )
    assert (claim.evidence, claim.p) == ("not established", p_holm)


def test_silent_tasks_are_named_with_their_accuracy_and_nothing_else(run, run_claims, plan):
    silent = of_kind(run_claims, "no signal")
    assert {(*claim.tasks, *claim.protocols) for claim in silent} == set(plan.silent)
    for claim in silent:
        (row,) = claim_rows(run, claim).to_dict("records")
        accuracy = (100 * row[name] for name in ("accuracy", "low", "high"))
        assert has_numbers(claim.short, *accuracy)
        assert f"{row['task']} {protocol_phrase(row['protocol'])}" in claim.short
    for finding in run_claims:
        if finding not in silent and finding.source["table"] in ("effects", "patching"):
            cells = claim_rows(run, finding)
            spoken = set(zip(cells["task"], cells["protocol"], strict=True))
            assert not spoken & set(plan.silent)


def test_many_silent_cells_are_counted_not_listed(run: RunTables) -> None:
    signal = run.tables["signal"].assign(signal=False)
    told = of_kind(
        findings_from_tables(synthetic.with_tables(run, signal=signal), EVERYTHING), "no signal"
    )
    assert len(told) == 5
    assert "20 further task-protocol pairs" in told[-1].short


@pytest.mark.long
def test_the_list_is_ordered_and_cut_but_keeps_roles_and_what_has_no_signal(run: RunTables) -> None:
    whole = findings_from_tables(run, EVERYTHING)
    roles, silent = [claim for claim in whole if claim.kind in ROLES], of_kind(whole, "no signal")
    assert whole[: len(roles)] == roles
    for most in (3, 6, MOST):
        short = findings_from_tables(run, most)
        assert short[: len(roles)] == roles
        assert of_kind(short, "no signal") == silent
        others = short[len(roles) : len(short) - len(silent)]
        assert 1 < len(others) <= most - 1
        assert sum(len(claim.short) for claim in others) <= most * CHARACTERS


@pytest.mark.long
def test_nothing_is_claimed_about_noise() -> None:
    plan = Plan(
        n_layers=12, critical={"letter": (), "continuation": (), "generate": ()}, n_items=50
    )
    told = synthetic.facts(plan)
    found = findings([AblationResult(synthetic.records(plan), told)], EVERYTHING)
    needed = of_kind(found, "needed")
    assert len(needed) == 4
    for claim in needed:
        assert claim.evidence == "not established"
        assert claim.short.endswith("no layer is shown to be needed.")
    of_roles = [claim for claim in found if claim.kind in ROLES]
    assert {claim.kind for claim in of_roles} == {"needed", "one order"}
    assert {claim.evidence for claim in of_roles} == {"not established"}
    (alike,) = of_table(found, "ladder_steps")
    assert alike.short.startswith("That another way of scoring needs other layers is not")


def test_words() -> None:
    assert layer_ranges([0, 1, 2, 7, 11, 12]) == "0–2, 7, 11 and 12"
    assert layer_ranges([]) == "none"
    assert [number(-0.2), number(-3.26, 1), number(float("inf"))] == ["0", "−3.3", "∞"]
    assert interval(1.0, float("nan"), -2.0) == "1 [?, −2]"
    assert interval(1.0, float("nan"), float("nan")) == "1 (no interval)"
    assert str(Estimate(1.0, float("nan"), float("nan"), "points")) == "1 points (no interval)"
    assert interval(0.4286, 0.4261, 0.4311, 2) == "0.429 [0.426, 0.431]"
    assert interval(0.0, 0.0, 1e-9, 2) == "0.00 [0.00, 0.00]"
    assert join_words(["a", "b", "c"]) == "a, b and c"
    assert [count_noun(n, "layer") for n in (0, 1, 12_000)] == [
        "0 layers", "1 layer", "12,000 layers",
    ]  # fmt: skip
    assert [count_range(values, "item") for values in ([1, 1], [60], [40, 60])] == [
        "1 item", "60 items", "40–60 items",
    ]  # fmt: skip
    assert [p_value(0.0002), p_value(0.0121)] == ["p < 0.001", "p = 0.012"]
    assert (
        intervention_phrase("mean", "mlp_out", "layer 3")
        == "setting the MLP output of layer 3 to its mean"
    )
    assert intervention_phrase("noise", "z", "head 3.1") == "adding noise to head 3.1"


def test_claims_are_saved_for_programs(run_claims: list[Claim], tmp_path) -> None:
    save_claims(run_claims, tmp_path)
    told = json.loads((tmp_path / "claims.json").read_text("utf-8"))
    table = pd.read_parquet(tmp_path / "claims.parquet")
    assert [one["short"] for one in told] == [claim.short for claim in run_claims]
    assert table["full"].tolist() == [claim.full for claim in run_claims]
    assert set(table["evidence"]) <= {"established", "in its table", "not established"}
    for claim, row in zip(run_claims, table.to_dict("records"), strict=True):
        assert row["layers"].tolist() == list(claim.layers)
        if claim.estimate is not None:
            assert (row["estimate"], row["low"]) == (claim.estimate.value, claim.estimate.low)
