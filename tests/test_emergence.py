from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from layerwise.analyses.contract import Curves
from layerwise.analyses.emergence.api import CENTRE, CRITICAL, HALF, emergence
from layerwise.analyses.emergence.findings import different_depth_claims
from layerwise.analyses.measurements import CURVES
from layerwise.errors import UserError
from layerwise.report import report
from layerwise.results import AblationResult, EmergenceResult, Facts, PatchingResult
from layerwise.stats.depth.depths import centre_of_mass, cumulative_share, half_depth
from layerwise.stats.depth.layer_curves import ExcludedTask, MethodCurve, Sampling, Signal, progress
from layerwise.stats.inference import two_sided_p
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables
from tests import synthetic
from tests.cases import data_sets, most_errors
from tests.synthetic import cell_records, planted_answers

pytestmark = pytest.mark.drawn

DEPTHS = {HALF: half_depth, CENTRE: centre_of_mass}
N_ENCODER, N_LAYERS = 5, 8


def step(layer: int, n_layers: int = 8, n_items: int = 20) -> np.ndarray:
    """Curves that jump from 0 to 1 in ``layer``, with a column before each layer and a last."""
    curve = (np.arange(n_layers + 1) > layer).astype(float)
    return np.repeat(curve[None], n_items, axis=0)


def made_up_ablation(
    right: np.ndarray, task: str = "keys", capability: str = "retrieval"
) -> AblationResult:
    """Answers of one task, intact and without each layer."""
    return synthetic.ablation(cell_records(right, task, capability))


def emergence_value(result: EmergenceResult, measure: str, column: str = "layer", **where: str):
    table = result.emergence
    for name, value in (where | {"measure": measure}).items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table[column].iloc[0]


# --- depths of curves -----------------------------------------------------------------------


def test_a_jump_is_found_exactly_and_equal_steps_give_the_middle():
    jumps = np.concatenate([step(layer, n_items=1) for layer in range(8)])
    for depth in DEPTHS.values():
        assert depth(jumps).tolist() == list(range(8))
        assert depth(cumulative_share(np.ones((1, 9)))).tolist() == pytest.approx([4.0])


def test_depths_by_hand():
    # worked out by hand: 0.4 before layer 1, 0.6 after it: halfway through [0.5, 1.5]
    assert half_depth(np.array([[0.0, 0.4, 0.6, 1.0]]))[0] == pytest.approx(1.0)
    # a quarter of the way through layer 2, which covers [1.5, 2.5]
    assert half_depth(np.array([[0.0, 0.2, 0.4, 0.8]]))[0] == pytest.approx(1.75)
    # passes 1/2 in layer 0, falls back, and stays from layer 2 on
    assert half_depth(np.array([[0.0, 0.9, 0.3, 0.7, 1.0]]))[0] == pytest.approx(2.0)
    assert half_depth(np.array([[0.7, 0.8, 1.0]]))[0] == 0.0
    assert np.isnan(half_depth(np.array([[0.0, 0.1, 0.2], [0.0, np.nan, 1.0]]))).all()
    # rises of 0.4, 0.6 in layers 0, 3; layer 1 takes off 0.2
    found = centre_of_mass(np.array([[0.0, 0.4, 0.2, 0.2, 0.8]]))[0]
    assert found == pytest.approx((3 * 0.6 - 1 * 0.2) / 0.8)
    # no further than the last layer: (2 * 3 - 0 * 2) / 1 without an end
    assert centre_of_mass(np.array([[0.0, -2.0, -2.0, 1.0]]))[0] == 2.0
    assert np.isnan(centre_of_mass(np.array([[0.5, 0.5, 0.4]]))).all()
    curve = cumulative_share(np.array([[0.0, 0.0], [1.0, 3.0], [np.nan, 1.0]]))
    assert np.isnan(curve[[0, 2]]).all()
    assert curve[1].tolist() == [0.0, 0.25, 1.0]


def test_two_sided_p_by_hand():
    assert two_sided_p(np.array([1.0] * 99)) == pytest.approx(2 / 100)
    assert two_sided_p(np.array([1.0] * 95 + [-1.0] * 4)) == pytest.approx(10 / 100)
    assert two_sided_p(np.array([0.0] * 9)) == two_sided_p(np.zeros(0)) == 1.0


# --- planted answers ------------------------------------------------------------------------


def test_ablation_finds_the_planted_layer_exactly():
    right = np.ones((40, 9), bool)
    right[:, 1 + 5] = np.arange(40) % 4 == 0
    result = emergence([made_up_ablation(right)])
    for measure in DEPTHS:
        assert emergence_value(result, measure) == pytest.approx(5.0)
        assert emergence_value(result, measure, "estimate") == pytest.approx(5 / 7)
        assert (
            emergence_value(result, measure, "low")
            < 5 / 7
            < emergence_value(result, measure, "high")
        )
    assert list(emergence_value(result, CRITICAL, "layers")) == [5]
    assert emergence_value(result, CRITICAL, "estimate") == pytest.approx(1 / 8)
    assert result.left_out.empty
    assert result.order.empty


@pytest.mark.long
def test_lens_and_patching_name_the_same_layer_as_ablation():
    # layer 5 writes the answer: resid_post of 5 shows it, and so does resid_pre of 6
    lens = synthetic.lens(-9 + 8 * step(5), "keys", "retrieval")
    patch = synthetic.patching_result(step(5)[:, :-1], "keys", "retrieval")
    result = emergence([lens, patch])
    assert set(result.emergence["method"]) == {"logit lens", "activation patching"}
    assert np.allclose(result.emergence["layer"], 5.0)
    assert np.allclose(result.emergence["estimate"], 5 / 7)
    never = emergence([synthetic.patching_result(np.zeros((5, 8)), "keys", "retrieval")])
    assert (never.emergence["estimate"] == 1.0).all()  # behind the last layer all is recovered
    # Sure of a wrong token: nearly all nats come back after layer 0, all probability at layer 5.
    values = np.array([[-110.0, -20, -20, -20, -20, -20, -1, -1, -1]] * 5)
    late = emergence([synthetic.lens(values, "keys", "retrieval")])
    assert np.allclose(late.emergence["layer"], 5.0, atol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_noisy_lens_interval_covers_the_truth():
    covered, n_sets = dict.fromkeys(DEPTHS, 0), data_sets(60)
    rise = np.array([0, 0, 0.1, 0.3, 0.8, 1, 1])
    for i in range(n_sets):
        rng = np.random.default_rng(i)
        noise = rng.normal(0, 0.03, (60, 1)) + rng.normal(0, 0.05, (60, 7))
        values = np.log(0.3 + 0.4 * rise + noise)
        result = emergence([synthetic.lens(values, "keys", "retrieval")], n_resamples=300)
        for measure, depth in DEPTHS.items():
            low, high = (
                emergence_value(result, measure, f"layer_{end}") for end in ("low", "high")
            )
            covered[measure] += low <= depth(rise[None])[0] <= high
    assert n_sets - min(covered.values()) <= most_errors(n_sets)


@pytest.mark.long
@pytest.mark.slow
def test_noisy_ablation_interval_covers_the_truth():
    covered, found, n_sets = 0, 0, data_sets(60)
    for i in range(n_sets):
        right = planted_answers(np.random.default_rng(i), 120, 8, (2,), accuracy=0.9, noise=0.05)
        result = emergence([made_up_ablation(right)], n_resamples=300)
        found += list(emergence_value(result, CRITICAL, "layers")) == [2]
        low, high = (emergence_value(result, HALF, f"layer_{end}") for end in ("low", "high"))
        covered += low <= 2.1 and high >= 1.9
    assert n_sets - min(found, covered) <= most_errors(n_sets)


def test_shares_not_accuracies_are_averaged_over_tasks():
    easy, hard = np.ones((40, 9), bool), np.ones((40, 9), bool)
    easy[20:, 1 + 1] = False
    hard[:, 1 + 6] = np.arange(40) % 2 == 0
    cells = [cell_records(easy, "easy", "retrieval"), cell_records(hard, "hard", "retrieval")]
    facts = synthetic.facts(
        synthetic.task_facts("easy", "retrieval", 0.5), synthetic.task_facts("hard", "retrieval", 0)
    )
    result = emergence([AblationResult(pd.concat(cells), facts)])
    # easy loses all of what is above chance in layer 1 (1.0), hard half of it in layer 6
    assert emergence_value(result, CENTRE) == pytest.approx((1 * 1.0 + 6 * 0.5) / 1.5)
    assert emergence_value(result, CENTRE, "tasks") == "easy,hard"
    assert (
        emergence_value(result, CENTRE, "n_items"),
        emergence_value(result, CENTRE, "n_tasks"),
    ) == (80, 2)
    assert list(emergence_value(result, CRITICAL, "layers")) == [1, 6]


def test_gains_are_taken_off():
    right = np.ones((80, 9), bool)
    right[:16] = False
    right[:, 1 + 3] = np.arange(80) % 4 == 0  # 44 fewer
    right[:, 1 + 7] = True  # 16 more
    result = emergence([made_up_ablation(right)])
    # of the 28 that are lost altogether 14 are, after 14 / 44 of layer 3
    assert emergence_value(result, HALF) == pytest.approx(2.5 + 14 / 44)
    assert emergence_value(result, CENTRE) == pytest.approx((3 * 44 - 7 * 16) / 28)
    assert list(emergence_value(result, CRITICAL, "layers")) == [3]
    effects = made_up_ablation(right).effects()
    assert effects.loc[effects["significant"], "layer"].tolist() == [3, 7]
    even = np.ones((60, 9), bool)
    even[:20], even[20:40, 1 + 3] = False, False
    even[:20, 1 + 6] = True
    nowhere = emergence([made_up_ablation(even)])
    assert nowhere.emergence["measure"].tolist() == [CRITICAL]
    assert nowhere.left_out["reason"].tolist() == [
        "skipping layers one by one gains as much as it loses"
    ]


# --- order ----------------------------------------------------------------------------------


def two_capabilities(rng: np.random.Generator, first: int, second: int) -> AblationResult:
    return synthetic.ablation(
        cell_records(planted_answers(rng, 60, 8, (first,), 0.9, 0.1), "sums", "reasoning"),
        cell_records(planted_answers(rng, 60, 8, (second,), 0.9, 0.1), "keys", "retrieval"),
    )


def test_a_planted_order_is_found():
    (half,) = emergence([two_capabilities(np.random.default_rng(0), 6, 1)]).order.to_dict("records")
    assert (half["measure"], half["first"], half["second"]) == (HALF, "retrieval", "reasoning")
    assert half["significant"]
    assert half["difference"] == pytest.approx(5 / 7, abs=0.1)
    assert half["low"] <= half["difference"] <= half["high"]
    assert half["p"] == half["p_holm"] < 0.05


def test_order_is_within_protocol_method_and_measure_and_corrected_over_all():
    rng = np.random.default_rng(1)
    capabilities = ["retrieval", "knowledge", "reasoning"]
    cells = [
        cell_records(
            planted_answers(rng, 40, 8, (layer,)), f"{capability} task", capability, protocol
        )
        for layer, capability in enumerate(capabilities)
        for protocol in ("letter", "generate")
    ]
    lenses = [synthetic.lens(-9 + 8 * step(5), f"{c} task", c) for c in capabilities[1:]]
    order = emergence([synthetic.ablation(*cells), *lenses], n_resamples=50).order
    assert len(order) == 3 * 2 * 1 + 1 * 1 * 2  # prediction depth, too, by lens
    assert set(zip(order["first"], order["second"], strict=True)) == {
        ("retrieval", "knowledge"), ("retrieval", "reasoning"), ("knowledge", "reasoning")
    }  # fmt: skip
    corrected = multipletests(order["p"], method="holm")[1]
    assert order["p_holm"].tolist() == pytest.approx(corrected.tolist())


@pytest.mark.long
@pytest.mark.slow
def test_equal_depths_are_rarely_called_different():
    n_sets = data_sets(60)
    claims = 0
    for i in range(n_sets):
        order = emergence([two_capabilities(np.random.default_rng(i), 3, 3)], n_resamples=200).order
        claims += (order["p_holm"] < 0.05).any()
    assert claims <= most_errors(n_sets)


# --- nothing to find ------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.slow
def test_noise_is_claimed_no_more_often_than_it_may():
    n_sets, rng, claims, depths = data_sets(80), np.random.default_rng(2), 0, 0
    for i in range(0, n_sets, 4):
        cells = [
            cell_records(
                planted_answers(rng, 60, 6, accuracy=0.7, noise=0.5), f"t{i + k}", capability
            )
            for k, capability in enumerate(("retrieval", "knowledge", "reasoning", "coherence"))
        ]
        found = emergence([synthetic.ablation(*cells)], n_resamples=20)
        sets = found.emergence.query("measure == 'critical set'")
        assert len(sets) == 4
        claims += sum(len(layers) > 0 for layers in sets["layers"])
        depths += len(found.emergence.query("measure == 'centre of mass'"))
        assert "skipping no single layer does significant harm" in set(found.left_out["reason"])
    assert claims <= most_errors(n_sets)
    assert depths == claims


def test_tasks_without_signal_are_left_out_of_every_method():
    rng = np.random.default_rng(3)
    good = cell_records(planted_answers(rng, 40, 8, (3,)), "good", "retrieval")
    poor = cell_records(
        planted_answers(rng, 40, 8, (6,), accuracy=0.2, noise=0.1), "poor", "retrieval"
    )
    none = cell_records(planted_answers(rng, 40, 8, accuracy=0.2, noise=0.1), "none", "reasoning")
    lens = [synthetic.lens(-9 + 8 * step(5), t, c)
            for t, c in (("good", "retrieval"), ("none", "reasoning"))]  # fmt: skip
    # a profile skips no layer where there is none, which is no gap in a curve
    for of_none in (none, none.query("kind == 'intact'")):
        result = emergence([synthetic.ablation(good, poor, of_none), *lens], n_resamples=50)
        assert set(result.emergence["capability"]) == {"retrieval"}
        assert set(result.emergence["tasks"]) == {"good"}
        assert emergence_value(result, HALF, method="ablation") == 3.0
        left = result.left_out
        assert sorted(zip(left["method"], left["task"], strict=True)) == [
            ("ablation", "none"), ("ablation", "poor"), ("logit lens", "none")
        ]  # fmt: skip
        assert left["reason"].str.startswith("no signal").all()


def test_a_lens_alone_places_nothing_where_the_answer_ends_on_top_by_luck():
    """The probability of the answer rises here too: the curve ends at whatever the model says."""
    right = np.arange(40) < 14  # of 40: 35 % [21 %, 52 %], and 25 % by guessing
    ends = np.where(right[:, None], -1.0, -4.0)
    lens = synthetic.lens(np.where(step(5, n_items=40) > 0, ends, -9.0), "luck", "retrieval")
    result = emergence([lens], n_resamples=50)
    assert result.emergence.empty
    assert result.left_out["reason"].tolist() == [
        "no signal: right answers end on top no more often than blind"
    ]


def test_a_lens_alone_places_what_ends_on_top_and_ablation_vouches_for_what_does_not():
    ends = np.where(np.arange(40)[:, None] < 30, -1.0, -4.0)
    often = synthetic.lens(np.where(step(5, n_items=40) > 0, ends, -9.0), "keys", "retrieval")
    assert emergence_value(emergence([often], n_resamples=50), HALF) == pytest.approx(5, abs=0.01)
    # The right option may win without being the first of all words.
    never = synthetic.lens(np.where(step(5, n_items=40) > 0, -4.0, -9.0), "keys", "retrieval")
    assert emergence([never], n_resamples=50).emergence.empty
    skips = made_up_ablation(planted_answers(np.random.default_rng(1), 40, 8, (3,)))
    both = emergence([skips, never], n_resamples=50)
    assert emergence_value(both, HALF, method="logit lens") == pytest.approx(5, abs=0.01)


def test_one_item():
    one = np.array([[True] * 4 + [False] + [True] * 4])
    ablation = synthetic.ablation(cell_records(one, "keys", "retrieval", "generate"))
    lens = synthetic.lens(-9 + 8 * step(5, n_items=1), "keys", "retrieval")
    patch = synthetic.patching_result(step(5, n_items=1)[:, :-1], "keys", "retrieval")
    result = emergence([ablation, lens, patch], n_resamples=20)
    assert result.emergence["measure"].tolist() == [CRITICAL]
    assert list(result.emergence["layers"].iloc[0]) == []
    assert result.emergence[["low", "high", "layer_low"]].isna().all(axis=None)
    assert set(result.left_out["reason"]) == {
        "skipping no single layer does significant harm", "a single item"
    }  # fmt: skip


def test_curves_that_do_not_rise_or_have_gaps_are_left_out():
    rng = np.random.default_rng(4)
    flat = synthetic.lens(rng.normal(-5, 1, (30, 9)), "flat", "retrieval")
    gaps = synthetic.patching_result(step(5)[:, :-1], "gaps", "retrieval")
    gaps = PatchingResult(gaps.patching.query("layer != 3"), gaps.facts)
    same = synthetic.patching_result(step(5)[:, :-1], "same", "retrieval")
    same = PatchingResult(same.patching.assign(clean_diff=-2.0, corrupted_diff=-2.0), same.facts)
    elsewhere = synthetic.patching_result(step(5)[:, :-1], "elsewhere", "retrieval", label="next")
    partly = synthetic.ablation(
        cell_records(planted_answers(rng, 40, 5, (3,)), "part", "retrieval"), n_layers=8
    )
    result = emergence([flat, gaps, same, elsewhere, partly], n_resamples=50)
    assert result.emergence.empty
    reasons = dict(zip(result.left_out["task"], result.left_out["reason"], strict=True))
    assert reasons == {
        "flat": "the answer's probability does not rise from the embedding to the last layer",
        "gaps": "read at 8 of 9 places: the curve over layers has gaps",
        "same": "the clean and the corrupted run do not differ",
        "elsewhere": "no resid_pre at the last position",
        "part": "skipped at 5 of 8 places: the curve over layers has gaps",
    }


def test_a_model_of_one_layer_has_its_depth_there():
    right = np.zeros((200, 2), bool)
    right[:6, 0] = True
    table = synthetic.ablation(cell_records(right, "keys", "retrieval", "generate"), n_layers=1)
    result = emergence([table], n_resamples=200)
    assert emergence_value(result, HALF, "n_resamples") == 0  # nothing is resampled
    bounds = (emergence_value(result, HALF, name) for name in ("estimate", "low", "high"))
    assert tuple(bounds) == (0.0, 0.0, 0.0)


# --- the whole ------------------------------------------------------------------------------


def test_other_kinds_of_ablation_are_not_skips():
    cell = cell_records(planted_answers(np.random.default_rng(5), 40, 8, (3,)), "keys", "retrieval")
    zero = cell[cell["kind"] == "skip"].assign(kind="zero", site="attn_out")
    zero = zero.assign(correct=~zero["correct"], intervention="zero:" + zero["intervention"])
    alone, both = (emergence([synthetic.ablation(*c)]) for c in ((cell,), (cell, zero)))
    pd.testing.assert_frame_equal(alone.emergence, both.emergence)


def test_critical_set_is_that_of_effects():
    rng = np.random.default_rng(6)
    ablation = synthetic.ablation(
        cell_records(planted_answers(rng, 80, 8, (3,), 0.9, 0.3), "keys", "retrieval"),
        cell_records(planted_answers(rng, 80, 8, (1, 5), 0.9, 0.3), "books", "retrieval"),
    )
    effects = ablation.effects()
    expected = sorted(effects.loc[effects["significant"], "layer"].unique())
    result = emergence([ablation], n_resamples=200)
    assert list(emergence_value(result, CRITICAL, "layers")) == expected == [1, 3, 5]
    low, size, high = (emergence_value(result, CRITICAL, c) for c in ("low", "estimate", "high"))
    assert low <= size == 3 / 8 <= high


def test_other_tasks_do_not_matter_and_of_depths_no_seed():
    rng = np.random.default_rng(7)
    one = cell_records(planted_answers(rng, 40, 8, (3,), 0.9, 0.2), "keys", "retrieval")
    two = cell_records(planted_answers(rng, 50, 8, (5,), 0.9, 0.2), "sums", "reasoning")
    alone, both, other = (
        emergence([synthetic.ablation(*cells)], seed=seed, n_resamples=100).emergence
        for cells, seed in (((one,), 0), ((one, two), 0), ((one,), 1))
    )
    shared = both.query("capability == 'retrieval'").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, shared)
    depths = "measure != 'critical set'"
    pd.testing.assert_frame_equal(alone.query(depths), other.query(depths))


def test_mistakes_are_told():
    lens = synthetic.lens(-9 + 8 * step(5), "keys", "retrieval")
    for results, message in (
        ([], "Emergence has nothing to join: expected at least one"),
        ([lens, lens], "Two results hold the logit lens of task 'keys' under"),
    ):
        with pytest.raises(UserError, match=message):
            emergence(results, n_resamples=20)


@dataclass(frozen=True, eq=False)
class ProbeResult(Result):
    """A made-up analysis: the accuracy of a probe by layer, which rises where it may."""

    values: np.ndarray
    facts: Facts


def probed_evidence(
    result: ProbeResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    items = [f"keys/{i:04d}" for i in range(len(result.values))]
    wide = pd.DataFrame(result.values, index=items)
    group = pd.DataFrame({"task": ["keys"], "capability": "retrieval", "protocol": "letter"})
    yield progress("probe", group, wide, np.arange(wide.shape[1]), signal, sampling, "it is flat")


def test_an_analysis_hands_in_its_curves(monkeypatch):
    monkeypatch.setitem(CURVES, ProbeResult, Curves("probe", probed_evidence))
    rng = np.random.default_rng(3)
    skips, guessing = (
        made_up_ablation(planted_answers(rng, 40, 8, *how))
        for how in (((3,), 1.0, 0.0), ((), 0.25, 0.25))
    )
    probe = ProbeResult(step(5, n_items=40), skips.facts)
    result = emergence([skips, probe], n_resamples=50)
    assert emergence_value(result, HALF, method="probe") == 5
    assert emergence_value(result, HALF, method="ablation") == 3
    assert set(result.method_agreement["second"]) == {"probe"}
    silenced = emergence([probe, guessing], n_resamples=50).left_out
    assert silenced["method"].tolist() == ["ablation", "probe"]
    assert silenced["reason"].str.startswith("no signal").all()


def suites_of_retrieval(*layers: int, n: int = 60, seed: int = 0) -> EmergenceResult:
    """One suite for each layer, which is all that it needs; other layers flip answers."""
    rng = np.random.default_rng(seed)
    cells = [
        cell_records(planted_answers(rng, n, 12, (layer,), 0.9, 0.03), f"suite {i}", "retrieval")
        for i, layer in enumerate(layers)
    ]
    return emergence([synthetic.ablation(*cells)], n_resamples=100)


def test_suites_of_a_capability_that_lie_at_other_depths_are_named():
    found = suites_of_retrieval(9, 2, 8)
    row = found.emergence.query("measure == @HALF").iloc[0]
    assert (row["task_first"], row["task_last"]) == ("suite 1", "suite 0")
    assert (row["layer_first"], row["layer_last"]) == pytest.approx((2, 9), abs=1)
    (claim,) = different_depth_claims(RunTables(found.facts, {"emergence": found.emergence}))
    assert claim.short == (
        "Suites of retrieval disagree on its depth when it picks a letter: by ablation, suite 1 "
        "lies around layer 2, suite 0 around layer 9."
    )
    assert claim.p == row["p_tasks"] < 0.05


@pytest.mark.long
def test_suites_that_need_the_same_layer_rarely_disagree():
    found = [suites_of_retrieval(5, 5, n=30, seed=seed).emergence for seed in range(6)]
    assert sum(table["p_tasks"].notna().any() for table in found) <= 1


# --- two stacks -----------------------------------------------------------------------------


def of_two_stacks(**critical: tuple[int, ...]) -> AblationResult:
    """A task for each capability, with the layers that it needs."""
    rng = np.random.default_rng(0)
    cells = [
        cell_records(
            planted_answers(rng, 60, N_LAYERS, critical=layers), f"of {capability}", capability
        )
        for capability, layers in critical.items()
    ]
    sizes = {"n_layers": N_LAYERS, "n_encoder_layers": N_ENCODER}
    return synthetic.ablation(*cells, model=synthetic.MODEL.model_copy(update=sizes))


def depths(found: EmergenceResult, axis: str, capability: str) -> pd.DataFrame:
    return found.emergence.query("axis == @axis and capability == @capability").set_index("measure")


@pytest.mark.long
def test_each_stack_is_told_by_its_own_layers():
    result = of_two_stacks(retrieval=(1, 3, 6), knowledge=(0, 5))
    found = emergence([result], n_resamples=200)
    assert found.order["measure"].tolist() == [HALF]  # on the axis of computation alone
    assert "axis" in found.summary_rows()
    for capability, axis, layers, relative in (
        ("retrieval", "encoder", [1, 3], None),
        ("retrieval", "decoder", [6], 1 / 2),
        ("knowledge", "encoder", [0], 0.0),
        ("knowledge", "decoder", [5], 0.0),
    ):
        mine = depths(found, axis, capability)
        assert mine.loc[CRITICAL, "layers"] == layers
        n_layers = N_ENCODER if axis == "encoder" else N_LAYERS - N_ENCODER
        assert mine.loc[CRITICAL, "estimate"] == pytest.approx(len(layers) / n_layers)
        assert mine.loc[CENTRE, "layer"] == pytest.approx(np.mean(layers), abs=0.05)
        if relative is not None:
            assert mine.loc[[HALF, CENTRE], "estimate"].tolist() == pytest.approx([relative] * 2)
            assert mine.loc[HALF, "layer"] == pytest.approx(layers[0])
            # the layers of a stack are never left, so at an end one bound is the estimate
            assert mine.loc[HALF, "layer_low"] <= layers[0] <= mine.loc[HALF, "layer_high"]
            assert mine.loc[HALF, "layer_high"] - mine.loc[HALF, "layer_low"] < 0.2
    assert depths(found, "computation", "retrieval").loc[CRITICAL, "layers"] == [1, 3, 6]
    assert found.left_out.empty
    figures = report([result, found]).figures
    assert {"emergence", "emergence_within_stacks"} <= set(figures)
    drawn_within = figures["emergence_within_stacks"].axes
    panels = {" ".join(axes.get_title(loc="left").split()): axes for axes in drawn_within}
    assert all(title.startswith(("encoder, ", "decoder, ")) for title in panels)
    drawn = panels["decoder, ablation, picks a letter: half-effect depth"].lines
    for gid in ("estimate", "critical"):
        places = (line.get_xdata() for line in drawn if line.get_gid() == gid)
        assert sorted(np.concatenate(list(places)).tolist()) == [0.0, 0.5]


def test_a_stack_that_is_not_needed_has_no_depth_and_it_is_said_so():
    found = emergence([of_two_stacks(retrieval=(1, 3))], n_resamples=200)
    assert set(depths(found, "encoder", "retrieval").index) == {CRITICAL, HALF, CENTRE}
    mine = depths(found, "decoder", "retrieval")
    assert set(mine.index) == {CRITICAL}
    assert (mine.loc[CRITICAL, "layers"], mine.loc[CRITICAL, "layer"]) == ([], 0)
    (row,) = found.left_out.to_dict("records")
    assert (row["axis"], row["capability"]) == ("decoder", "retrieval")
    assert "no single layer does significant harm" in row["reason"]
    nowhere = emergence([of_two_stacks(retrieval=())], n_resamples=200)
    assert nowhere.left_out["axis"].tolist() == ["computation"]  # and not again of each stack


def test_of_one_stack_there_is_one_axis():
    alone = emergence([synthetic.small_ablation()], n_resamples=50)
    assert set(alone.emergence["axis"]) == {"computation"}
    assert "axis" not in alone.summary_rows()
