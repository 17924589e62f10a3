"""Published claims: what each needs, and the verdicts on made-up answers whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analyses.validity import published_claims as made_up
from layerwise.analyses.replication.api import (
    claim_tasks,
    protocols_by_task,
    select_claims,
)
from layerwise.analyses.replication.claims import BY_NAME
from layerwise.analyses.replication.measurements import MEASUREMENTS, TRAINED
from layerwise.analyses.replication.verdicts.claim import (
    SCALES,
    SMALL,
    ClaimTest,
    NoTest,
    Number,
    Verdict,
)
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.tasks import PROTOCOLS
from layerwise.tasks.registry import is_suite
from tests.cases import data_sets, most_errors

CHANCE = {"letter": 0.25, "continuation": 0.25, "generate": 0.0}


def evidence_of(world: made_up.World, seed: int = 0, **tables: pd.DataFrame) -> Evidence:
    """The evidence of a made-up model."""
    return Evidence.from_cells(
        made_up.made_up_cells(np.random.default_rng(seed), world),
        lambda task, protocol: CHANCE[protocol], made_up.N_LAYERS, tables,
    )  # fmt: skip


def verdicts(world: made_up.World, *names: str, seed: int = 0) -> dict[tuple[str, str], str]:
    """Verdicts on some claims by claim and part."""
    table = judge(select_claims(names), evidence_of(world, seed))["verdicts"]
    return {(row["claim"], row["part"]): row["verdict"] for row in table.to_dict("records")}


def world(name: str, **changes: object) -> made_up.World:
    """A world by a part of its name."""
    found = [one for one in made_up.worlds() if name in one.name]
    return found[0]._replace(**changes)


@pytest.mark.parametrize("claim", BY_NAME.values(), ids=BY_NAME)
def test_a_claim_says_what_it_is_and_asks_for_what_there_is(claim):
    assert set(claim.needs.tasks) == set(SCALES)
    assert set(claim.needs.protocols) <= set(PROTOCOLS)
    assert set(claim.needs.also) <= {*MEASUREMENTS, TRAINED}
    assert all(map(is_suite, claim.needs.tasks[SMALL]))
    for text in (claim.sentence, claim.measured, claim.differs):
        assert text.endswith(".")
        assert text[0].isupper()
    assert len(claim.sentence.split()) <= 25
    assert not claim.holds.endswith(".")
    assert not claim.opposite.endswith(".")


def test_what_all_claims_need_is_asked_once():
    claims = select_claims(["all"])
    tasks = claim_tasks(claims, SMALL, None)
    wanted = protocols_by_task(claims, tasks)
    assert len(set(wanted)) == len(wanted)
    assert wanted["facts"] == ("letter", "continuation", "generate")
    assert set(wanted["word-problems"]) == {"generate", "continuation"}
    assert tasks["neeraj-2"] == ["word-problems", "arithmetic"]
    only = select_claims(["lad-1"])
    assert protocols_by_task(only, claim_tasks(only, SMALL, None))["facts"] == ("continuation",)


def test_a_verdict_is_of_the_tasks_of_its_claim_alone():
    evidence = evidence_of(world("one order, early first"))
    claims, own = select_claims(["song-9"]), ["facts", "kv-words"]
    alone = judge(claims, evidence.select_tasks(own))["verdicts"]
    among = judge(claims, evidence, {"song-9": own})["verdicts"]
    pd.testing.assert_frame_equal(alone, among)
    every = judge(claims, evidence)["verdicts"]
    assert every["estimate"].iloc[0] != among["estimate"].iloc[0]


def test_early_layers_that_matter_make_the_claims_about_depth_hold():
    told = verdicts(world("one order, early first", fragile={}), "song-9", "csordas-1")
    assert set(told.values()) == {Verdict.HOLDS}
    own = {}
    for task, layers in zip(made_up.TASKS, ([2, 3], [4, 5], [6, 7]), strict=True):
        own[task] = np.zeros(made_up.N_LAYERS)
        own[task][layers] = 8.0
    told = verdicts(world("no layer matters", damage=own), "song-4")
    assert set(told.values()) == {Verdict.HOLDS}
    assert len(told) == 2


def test_layers_that_all_tasks_need_place_no_capability():
    shared = np.zeros(made_up.N_LAYERS)
    shared[:2] = 8.0
    damage = dict.fromkeys(made_up.TASKS, shared)
    assert set(verdicts(world("no layer matters", damage=damage), "song-4").values()) == {
        Verdict.OPEN
    }


def test_late_layers_that_matter_make_their_opposites_hold():
    told = verdicts(world("one order, late first", fragile={}), "song-9", "csordas-1")
    assert set(told.values()) == {Verdict.OPPOSITE}


def test_both_ends_that_matter():
    ends = np.zeros(made_up.N_LAYERS)
    ends[[0, 1, -1]] = 6.0
    damage = dict.fromkeys(made_up.TASKS, ends)
    assert verdicts(world("no layer matters", damage=damage), "lad-1") == {
        ("lad-1", ""): Verdict.HOLDS
    }
    middle = dict.fromkeys(made_up.TASKS, 6.0 - ends)
    assert verdicts(world("no layer matters", damage=middle), "lad-1") == {
        ("lad-1", ""): Verdict.OPPOSITE
    }


def test_most_layers_are_spare_where_only_the_first_two_matter():
    first = np.zeros(made_up.N_LAYERS)
    first[:2] = 8.0
    told = verdicts(
        world("no layer matters", damage=dict.fromkeys(made_up.TASKS, first), n=400), "song-1"
    )
    assert told == {("song-1", "letter"): Verdict.HOLDS, ("song-1", "continuation"): Verdict.HOLDS}
    alike = verdicts(world("all layers alike"), "song-1")
    assert set(alike.values()) == {Verdict.OPPOSITE}


def test_reasoning_that_needs_deeper_layers():
    early, late = (np.zeros(made_up.N_LAYERS) for _ in "ab")
    early[[3, 5]], late[[16, 19]] = 8.0, 8.0
    damage = {"facts": early, "kv-words": early, "arithmetic": late}
    told = verdicts(world("no layer matters", damage=damage), "song-5")
    assert set(told.values()) == {Verdict.HOLDS}
    assert len(told) == 2
    turned = {"facts": late, "kv-words": late, "arithmetic": early}
    told = verdicts(world("no layer matters", damage=turned), "song-5")
    assert set(told.values()) == {Verdict.OPPOSITE}


def test_nothing_holds_where_no_layer_matters():
    told = verdicts(world("no layer matters"), "all")
    assert Verdict.HOLDS not in told.values()


def test_a_model_that_guesses_gets_no_verdict():
    guessing = world("no layer matters", margin=dict.fromkeys(made_up.TASKS, -20.0))
    told = verdicts(guessing, "all")
    assert set(told.values()) <= {Verdict.NO_SIGNAL, Verdict.NOT_ASKED}


def test_a_shallow_model_cannot_be_asked():
    evidence = replace(evidence_of(world("no layer matters")), n_layers=4)
    table = judge(select_claims(["song-9"]), evidence)["verdicts"]
    assert table["verdict"].tolist() == [Verdict.NOT_ASKED]
    assert "4 layers" in table["note"].iloc[0]


def outcome(p_holds: float, p_opposite: float = 1.0, error: float = np.nan) -> ClaimTest:
    """A made-up outcome of a test."""
    number = Number("a number", 10.0, 5.0, 15.0, 70)
    return ClaimTest("", "% of the score", "lost", number, p_holds, p_opposite, error)


def judged(*outcomes: ClaimTest | NoTest) -> pd.DataFrame:
    """Verdicts on claims with given outcomes."""
    claim = BY_NAME["song-9"]
    claims = [replace(claim, name=f"c{i}", test=lambda _, o=o: [o]) for i, o in enumerate(outcomes)]
    return judge(claims, evidence_of(world("no layer matters")))["verdicts"]


def test_a_verdict_is_corrected_for_both_directions_and_all_parts():
    assert judged(outcome(0.024))["verdict"].tolist() == [Verdict.HOLDS]
    assert judged(outcome(0.026))["verdict"].tolist() == [Verdict.OPEN]
    table = judged(outcome(0.01), outcome(0.9, 0.004), outcome(0.5))
    assert table["verdict"].tolist() == [Verdict.HOLDS, Verdict.OPPOSITE, Verdict.OPEN]
    assert table["p"].tolist() == pytest.approx([0.02, 0.008, 1.0])
    assert table["p_run"].tolist() == pytest.approx([0.04, 0.024, 1.0])
    assert table["side"].tolist() == ["holds", "opposite", "holds"]


def test_what_was_not_tested_is_no_test_of_the_run():
    silent = NoTest("", Verdict.NO_SIGNAL, "It guesses.")
    table = judged(outcome(0.01), silent, silent)
    assert table["verdict"].tolist() == [Verdict.HOLDS, Verdict.NO_SIGNAL, Verdict.NO_SIGNAL]
    assert table["run_tests"].tolist()[0] == 1
    assert table["p"].isna().tolist() == [False, True, True]


def test_the_smallest_effect_is_found_in_eight_of_ten_runs():
    table = judged(outcome(0.5, error=2.0), outcome(0.5, error=2.0))
    smallest = float(table["smallest"].iloc[0])
    draws = np.random.default_rng(0).normal(smallest, 2.0, 100_000)
    from scipy.stats import norm

    shown = 2 * 2 * norm.sf(draws / 2.0) < 0.05  # both directions, two claims
    assert shown.mean() == pytest.approx(0.8, abs=0.005)


@pytest.mark.long
def test_false_verdicts_are_as_rare_as_stated():
    n_runs = data_sets(12)
    rates = made_up.verdict_rates(n_runs)
    false = rates.loc[rates["false"]]
    assert (false["found"] <= most_errors(n_runs)).all(), false.query("found > 0").to_string()
