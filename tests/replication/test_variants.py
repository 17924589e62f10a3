"""Claims on easy and hard variants of a suite: verdicts on made-up answers, and on wired models."""

from __future__ import annotations

import numpy as np
import pytest

import layerwise as lw
from analyses.validity import published_claims as made_up
from layerwise.analyses.replication.claims import BY_NAME
from layerwise.analyses.replication.verdicts.claim import SCALES, ClaimTest, NoTest, Verdict
from layerwise.analyses.replication.verdicts.depth import Variants, compare_variants
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.stats.cells import cells, layer_skips
from layerwise.tasks import load_task
from layerwise.tasks.registry import is_suite

EASY, HARD = made_up.HOPS[0], made_up.HOPS[-1]
PAIR = Variants("4 hops", EASY, HARD)
CHANCE = {"letter": 0.25, "continuation": 0.25, "generate": 0.0}


def damage(*layers: int, size: float = 8.0) -> np.ndarray:
    """Losses of a model that needs some layers alike and no others."""
    taken = np.zeros(made_up.N_LAYERS)
    taken[list(layers)] = size
    return taken


def evidence_of(easy: np.ndarray, hard: np.ndarray, n: int = 70, **world: object) -> Evidence:
    """The evidence of a made-up model that loses so much on two variants."""
    made = made_up.World("two variants", {EASY: easy, HARD: hard}, n, **world)  # type: ignore[arg-type]
    answers = made_up.made_up_cells(np.random.default_rng(0), made)
    return Evidence.from_cells(answers, lambda _, protocol: CHANCE[protocol], made_up.N_LAYERS)


def outcome(evidence: Evidence) -> ClaimTest | NoTest:
    """The outcome of the only pair of variants."""
    (found,) = compare_variants(evidence, (PAIR,))
    return found


def verdict(evidence: Evidence) -> str:
    """The verdict on csordas-2, of the only pair that was asked."""
    table = judge([BY_NAME["csordas-2"]], evidence)["verdicts"]
    assert table["part"].tolist() == ["4 hops"]
    return table["verdict"].iloc[0]


def test_variants_that_need_the_same_layers_use_no_more_depth():
    same = damage(4, 8, 12)
    assert verdict(evidence_of(same, same, 300)) == Verdict.HOLDS
    flat = made_up.flat(3.0)
    alike = evidence_of(flat, flat, 300, margin={HARD: 3.0})
    assert verdict(alike) == Verdict.HOLDS


def test_a_harder_variant_in_deeper_layers():
    assert verdict(evidence_of(damage(3, 5), damage(12, 15))) == Verdict.OPPOSITE
    both = damage(0), damage(20)
    shared = evidence_of(both[0] + damage(3, 5), both[0] + damage(12, 15))
    assert verdict(shared) == Verdict.OPPOSITE
    found = outcome(shared)
    assert isinstance(found, ClaimTest)
    assert "Both need layer 0." in found.note
    assert found.estimate.estimate == pytest.approx(9.5, abs=2)


def test_a_harder_variant_in_shallower_layers_is_neither():
    assert verdict(evidence_of(damage(12, 15), damage(3, 5))) == Verdict.OPEN


def test_a_null_claim_needs_an_interval_inside_the_bound():
    """Few items show no difference, which is no evidence that there is none."""
    assert verdict(evidence_of(made_up.flat(2.0), made_up.flat(2.0), 30)) == Verdict.OPEN
    found = outcome(evidence_of(damage(8), damage(9), 300))
    assert isinstance(found, ClaimTest)
    assert found.p_holds > 0.05


def test_layers_that_both_need_do_not_hide_a_difference():
    """With twelve shared layers the mean layers are close, though the others lie far apart."""
    shared = damage(*range(12))
    found = outcome(evidence_of(shared + damage(12), shared + damage(20), 300))
    assert isinstance(found, ClaimTest)
    numbers = {one.label: one.estimate for one in found.numbers}
    assert abs(numbers["hard minus easy, all layers"]) < 1
    assert numbers["hard minus easy, without layers that both need"] > 4
    assert found.p_holds > 0.5


def test_a_variant_that_only_loses_more_is_not_called_deeper():
    """Strong early layers break both; weak late ones break only the variant with less to spare."""
    order = made_up.falling(9.0)
    found = outcome(evidence_of(order, order, 300, margin={EASY: 6.0, HARD: 2.5}))
    assert isinstance(found, ClaimTest)
    numbers = {one.label: one for one in found.numbers}
    assert numbers["hard minus easy, all layers"].low > 1
    assert found.p_opposite > 0.5
    assert "No layers cross" in found.note
    assert found.p_holds > 0.5


def test_both_variants_must_have_signal():
    guesses = evidence_of(damage(3), damage(3), margin={HARD: -20.0})
    found = outcome(guesses)
    assert isinstance(found, NoTest)
    assert found.verdict == Verdict.NO_SIGNAL
    assert HARD in found.why
    assert EASY not in found.why


def test_variants_that_were_not_asked_are_no_part():
    (only,) = compare_variants(evidence_of(damage(3), damage(3)).select_tasks([EASY]), (PAIR,))
    assert isinstance(only, NoTest)
    assert only.verdict == Verdict.NOT_ASKED


@pytest.mark.parametrize("name", made_up.VARIANTS)
def test_suites_go_by_the_names_that_the_claims_look_for(name):
    """A variant goes by its name in one spelling alone, which is that of the answers."""
    for scale in SCALES:
        for task in filter(is_suite, BY_NAME[name].needs.tasks[scale]):
            assert load_task(task).name == task


HOPS_OF_WORDS = Variants("two hops", "wired-lookup", "wired-two-hop")


def wired_outcome(layout: WiredLayout) -> ClaimTest:
    """One look-up against two in a wired model, which the second look-up needs beside the first."""
    ablated = lw.ablate(
        wired_model(layout), ["wired-lookup", "wired-two-hop"], ["continuation"],
        limit=48, progress=False,
    )  # fmt: skip
    facts = ablated.facts
    evidence = Evidence.from_cells(
        list(cells(layer_skips(ablated.records))), facts.chance, facts.model.n_layers
    )
    (found,) = compare_variants(evidence, (HOPS_OF_WORDS,))
    assert isinstance(found, ClaimTest)
    return found


@pytest.mark.long
def test_a_second_hop_in_a_wired_model_stays_open_and_says_why():
    """It needs the same layers and one more, as a question that is only more fragile would."""
    layout = WiredLayout(
        12, 2, previous=Spot(0, 0), look_up=Spot(2, 0), facts=Spot(1, 0), second_hop=Spot(8, 0),
        gate=Spot(11, 0),
    )  # fmt: skip
    found = wired_outcome(layout)
    # Look-ups need layers 0, 2 and 11, two hops also layer 8.
    assert found.estimate.estimate == pytest.approx((0 + 2 + 8 + 11) / 4 - 13 / 3, abs=0.3)
    assert min(found.p_holds, found.p_opposite) == 1.0
    assert "Both need layers 0, 2 and 11." in found.note
    assert "Only one of them loses anything elsewhere." in found.note
