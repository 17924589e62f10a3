"""Claims on sets of heads: verdicts on made-up answers, and on models with wired heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import layerwise as lw
from analyses.validity import head_claims as made_up
from layerwise.analyses.replication.api import select_claims
from layerwise.analyses.replication.verdicts.claim import Verdict
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.head_sets import further_set_p_value
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.results import ReplicationResult
from tests.cases import data_sets, most_errors
from tests.stopping import stop_after

CLAIMS = tuple(made_up.HEAD_CLAIMS)
SPARED = {"facts": 0.1}


def told(verdicts: pd.DataFrame) -> dict[str, str]:
    """Verdicts by claim and part."""
    rows = verdicts.to_dict("records")
    return {f"{row['claim']} {row['part']}".strip(): row["verdict"] for row in rows}


def verdicts(world: made_up.HeadWorld, seed: int = 0) -> dict[str, str]:
    """Verdicts on all claims on sets of heads in a world."""
    tables = {"head_sets": made_up.made_up_head_sets(np.random.default_rng(seed), world)}
    evidence = Evidence({}, {}, frozenset(), made_up.N_LAYERS, tables)
    return told(judge(select_claims(CLAIMS), evidence)["verdicts"])


def test_heads_that_carry_their_task_make_all_claims_hold():
    found = verdicts(made_up.HeadWorld("few carry it", 8.0, 0.5, fragile=SPARED))
    assert set(found.values()) == {Verdict.HOLDS}
    assert set(found) == {"song-7 retrieval", "song-7 reasoning", "wu-1", "olsson-1"}


def test_heads_that_cost_less_than_others_make_the_opposite_hold():
    found = verdicts(made_up.HeadWorld("others carry it", 0.0, 6.0))
    assert set(found.values()) == {Verdict.OPPOSITE}


def test_heads_that_cost_nothing_make_the_opposite_hold_with_enough_items():
    found = verdicts(made_up.HeadWorld("no head matters", 0.0, 0.0, n=400, margin=8.0))
    assert set(found.values()) == {Verdict.OPPOSITE}


def test_facts_that_lose_as_much_leave_the_claim_on_retrieval_open():
    found = verdicts(made_up.HeadWorld("all tasks need them", 8.0, 0.5))
    assert found["wu-1"] == Verdict.OPEN
    assert found["song-7 retrieval"] == Verdict.HOLDS


def test_one_random_set_that_costs_as_much_is_enough_to_leave_it_open():
    world = made_up.HeadWorld("few carry it", 8.0, 0.5, fragile=SPARED)
    table = made_up.made_up_head_sets(np.random.default_rng(0), world)
    chosen = table["set"] == 0
    table.loc[table["set"] == 7, "correct"] = table.loc[chosen, "correct"].to_numpy()
    evidence = Evidence({}, {}, frozenset(), made_up.N_LAYERS, {"head_sets": table})
    found = told(judge(select_claims(CLAIMS), evidence)["verdicts"])
    assert set(found.values()) == {Verdict.OPEN}


def test_a_further_set_is_a_t_test_with_the_spread_of_a_new_value():
    random = np.random.default_rng(0).normal(0.2, 0.1, 20)
    n, mean, spread = 20, random.mean(), random.std(ddof=1)
    expected = float(t.sf((0.5 - mean) / (spread * np.sqrt(1 + 1 / n)), n - 1))
    assert further_set_p_value(0.5, random, 0.0) == pytest.approx(expected)
    assert further_set_p_value(0.5, np.zeros(20), 0.2) > 0.01  # few items show no spread
    drawn = np.random.default_rng(1).normal(size=(4000, 21))
    p = np.array([further_set_p_value(row[0], row[1:], 0.0) for row in drawn])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert (p < 0.01).mean() == pytest.approx(0.01, abs=0.006)


def test_a_model_that_guesses_gets_no_verdict_on_heads():
    found = verdicts(made_up.HeadWorld("guesses", 1.0, 1.0, margin=-20.0))
    assert set(found.values()) == {Verdict.NO_SIGNAL}


def test_without_sets_nothing_is_asked():
    evidence = Evidence({}, {}, frozenset(), made_up.N_LAYERS, {})
    table = judge(select_claims(CLAIMS), evidence)["verdicts"]
    assert set(table["verdict"]) == {Verdict.NOT_ASKED}
    assert all(note.startswith("No head was chosen") for note in table["note"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a replication of a model whose heads are wired."""
    out = tmp_path_factory.mktemp("runs") / "heads"
    lw.replicate(wired_model(), ("wu-1", "song-7"), limit=60, out=out, progress=False)
    return out


def replication_in(folder) -> ReplicationResult:
    """The replication of a run's folder."""
    return next(r for r in lw.load(folder) if isinstance(r, ReplicationResult))


@pytest.mark.long
def test_a_wired_model_gets_the_verdicts_of_its_heads(folder):
    result = replication_in(folder)
    assert told(result.verdicts) == {
        "wu-1": Verdict.HOLDS,
        "song-7 retrieval": Verdict.HOLDS,
        "song-7 reasoning": Verdict.HOLDS,
    }
    numbers = result.verdict_numbers.query("claim == 'wu-1'")
    lost = dict(zip(numbers["label"], numbers["estimate"], strict=True))
    assert lost["lost without the set"] == pytest.approx(100)
    assert lost["lost without a random set"] == pytest.approx(0)
    assert lw.verify(folder).ok


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_to_the_same_verdicts(folder, tmp_path):
    out = tmp_path / "stopped"
    with stop_after(3):
        lw.replicate(wired_model(), ("wu-1", "song-7"), limit=60, out=out, progress=False)
    lw.replicate(wired_model(), ("wu-1", "song-7"), limit=60, out=out, progress=False)
    pd.testing.assert_frame_equal(replication_in(folder).verdicts, replication_in(out).verdicts)


@pytest.mark.long
def test_two_heads_a_layer_are_too_few_for_random_sets():
    layout = WiredLayout(
        12, 2, previous=Spot(0, 0), look_up=Spot(2, 0), facts=Spot(1, 0), second_hop=Spot(9, 0),
        gate=Spot(11, 0),
    )  # fmt: skip
    result = lw.replicate(wired_model(layout), "wu-1", limit=40, progress=False)
    assert told(result.verdicts) == {"wu-1": Verdict.NOT_ASKED}
    assert "Only 1 random set could" in result.verdicts["note"].iloc[0]


def test_an_encoder_decoder_cannot_be_asked():
    model = lw.load_model("organism-seq2seq")
    result = lw.replicate(model, "wu-1", limit=6, progress=False)
    assert told(result.verdicts) == {"wu-1": Verdict.NOT_ASKED}
    assert "encoder-decoder" in result.verdicts["note"].iloc[0]


@pytest.mark.long
def test_false_verdicts_on_heads_are_as_rare_as_stated():
    n_runs = data_sets(8)
    rates = made_up.head_verdict_rates(n_runs)
    false = rates.loc[rates["false"]]
    assert (false["found"] <= most_errors(n_runs)).all(), false.query("found > 0").to_string()
