"""Every analysis on wired models: it must give exactly the planted answer, wherever it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.models.organisms.layout import Spot, WiredLayout
from tests.cases import in_long_runs
from tests.planted import (
    CAPABILITIES,
    ROUNDING,
    Planted,
    assert_lost_answers_are_not_written,
    assert_no_bit_changed,
    assert_nothing_is_claimed_of_letters,
    layouts,
    small_model,
    small_task,
    spared,
    with_values_swapped,
)

LAYOUT = WiredLayout(8, 2, Spot(1, 1), Spot(2, 0), Spot(3, 1), Spot(5, 0), Spot(6, 1))
TASKS = [small_task(capability) for capability in CAPABILITIES]
# Without layers some guess so well that 12 items, half of a task, are no signal, and its layers go.
MORE_ITEMS = [small_task(capability, 48) for capability in CAPABILITIES]
anywhere = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.generate))
seeds = st.integers(0, 1000)


def ablated(layout, seed=0, protocols="continuation", **options):
    model = small_model(layout, seed)
    return lw.ablate(model, TASKS, protocols, progress=False, **options)


def check_effects(layout: WiredLayout, site: str, effects: pd.DataFrame) -> None:
    """What is needed is lost, down to chance; all else changes nothing at all."""
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        critical = Planted(layout, str(capability)).critical(site)
        assert set(group.loc[group["significant"], "layer"]) == critical
        rest = group.loc[~group["layer"].isin(critical)]
        assert (group["acc_intact"] == 1).all()
        assert (rest["acc"] == 1).all()
        assert not rest["nats"].abs().gt(ROUNDING).any()
        idle = rest.loc[~rest["layer"].isin(layers_in_use(layout))]
        assert not idle["nats"].abs().gt(0).any()


def layers_in_use(layout: WiredLayout) -> set[int]:
    return {layer for c in CAPABILITIES for layer in Planted(layout, c).critical("layer")}


# By day each kind and each site; what a kind does to a site is held by the tests of the sweep.
@pytest.mark.parametrize(
    ("kind", "site"),
    [
        ("skip", "layer"), ("zero", "mlp_out"), ("zero", "resid_post"), ("mean", "attn_out"),
        *in_long_runs(
            ("skip", "attn_out"), ("skip", "mlp_out"), ("zero", "attn_out"), ("mean", "mlp_out"),
            ("mean", "resid_post"),
        ),
    ],
)  # fmt: skip
def test_ablation_finds_the_planted_layers(kind, site):
    check_effects(LAYOUT, site, ablated(LAYOUT, kind=kind, site=site).effects())


@anywhere
@given(layouts(), seeds)
def test_ablation_finds_them_wherever_they_are(layout, seed):
    result = ablated(layout, seed, ("continuation", "generate"))
    check_effects(layout, "layer", result.effects())


GROUPED = WiredLayout(6, 4, Spot(0, 1), Spot(2, 3), Spot(3, 0), Spot(4, 2), Spot(5, 1), n_shared=2)


def check_heads(layout: WiredLayout, site: str, kind: str, effects: pd.DataFrame) -> None:
    """Exactly the planted heads are needed; all others, in the same layers too, do nothing."""
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        truth = Planted(layout, str(capability))
        spots = [Spot(int(row.layer), int(row.head)) for row in group.itertuples()]
        critical = truth.critical_heads(site, kind)
        found = [s for s, yes in zip(spots, group["significant"], strict=True) if yes]
        assert set(found) == critical
        assert len(spots) == len(set(spots))
        assert set(spots) > truth.critical_heads(site)
        rest = group.loc[[spot not in truth.critical_heads(site) for spot in spots]]
        assert (rest["acc"] == 1).all()
        assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.parametrize(
    ("site", "kind"),
    [
        ("z", "zero"), ("z", "resample"), ("kv_group", "skip"),
        *in_long_runs(
            ("z", "skip"), ("z", "mean"), ("kv_group", "zero"), ("kv_group", "mean"),
            ("kv_group", "resample"),
        ),
    ],
)  # fmt: skip
def test_ablation_finds_the_planted_heads(kind, site):
    """Heads that share keys and values with a planted one, too, are told from it."""
    check_heads(GROUPED, site, kind, ablated(GROUPED, kind=kind, site=site).effects())


@pytest.mark.long
@anywhere
@given(layouts(), seeds)
def test_ablation_finds_the_heads_wherever_they_are(layout, seed):
    result = ablated(layout, seed, ("continuation", "generate"), kind="zero", site="z")
    check_heads(layout, "z", "zero", result.effects())


@pytest.mark.parametrize("method", ["engine", "reference"])
def test_skipping_idle_layers_changes_no_bit(method):
    idle = sorted(set(range(LAYOUT.n_layers)) - layers_in_use(LAYOUT))
    # The reference computes each by itself, so that others beside them change nothing.
    layers = idle if method == "reference" else None
    records = ablated(LAYOUT, method=method, layers=layers, limit=1).records
    assert_no_bit_changed(records, idle, method)


def test_a_model_that_lost_its_answer_writes_none():
    assert_lost_answers_are_not_written(ablated(LAYOUT, protocols="generate", limit=8).records)


def test_letters_are_not_understood_and_nothing_is_claimed():
    assert_nothing_is_claimed_of_letters(ablated(LAYOUT, protocols="letter"))


@anywhere
@given(layouts(), seeds)
def test_the_lens_reads_the_answer_from_the_planted_layer_on(layout, seed):
    """From there on they are settled, too."""
    result = logit_lens(small_model(layout, seed), TASKS, "continuation", progress=False)
    for capability, group in result.lens.groupby("capability"):
        readable = group["layer"] >= Planted(layout, str(capability)).readable_from
        assert (group.loc[readable, "rank"] == 0).all()
        assert (group.loc[~readable, "rank"] > 0).all()
        assert np.exp(group.loc[readable, "logprob"]).min() > 0.99
        shown = group.loc[readable]
        assert shown["kl"].max() < ROUNDING
    depths = result.prediction_depths()
    assert depths["right"].all()
    for capability, group in depths.groupby("capability"):
        assert set(group["layer"]) == {Planted(layout, str(capability)).readable_from}


def test_a_tuned_lens_reads_the_answer_once_it_was_brought_and_not_before():
    """Biases read what the logit lens reads; a map, what was looked up and not yet let out."""
    model = small_model(GROUPED)
    for kind, steps in (("bias", 15), ("full", 60)):
        lens = train_lens(model, TASKS, kind=kind, n_texts=60, steps=steps, progress=False).lens
        read = logit_lens(model, TASKS, "continuation", lens="tuned", tuned=lens, progress=False)
        tops = read.lens.assign(top=read.lens["rank"] == 0).groupby(["capability", "layer"])["top"]
        for (capability, layer), share in tops.mean().items():
            truth = Planted(GROUPED, str(capability))
            assert layer < truth.readable_from or share == 1
            assert layer >= truth.brought_at or share < 0.4
            assert kind == "full" or layer >= truth.readable_from or share == 0
        retrieved = Planted(GROUPED, "retrieval")
        assert kind == "bias" or tops.mean()["retrieval", retrieved.brought_at] > 0.5


@anywhere
@given(layouts(), seeds)
def test_patching_recovers_at_the_planted_layer_and_position(layout, seed):
    sites = ("resid_pre", "resid_post", "attn_out", "mlp_out")
    found = patch_activations(
        small_model(layout, seed), TASKS, sites=sites, directions=("denoising", "noising"),
        pairs=2, progress=False,
    ).patching  # fmt: skip
    assert found.groupby(["capability", "direction"])["item"].nunique().eq(2).all()
    for row in found.itertuples():
        at_last = row.pos_label == "last"
        expected = Planted(layout, row.capability).recovers(row.site, int(row.layer), at_last)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@anywhere
@given(layouts(), seeds)
def test_patching_recovers_at_the_planted_heads(layout, seed):
    found = patch_activations(
        small_model(layout, seed), TASKS, sites=("z", "pattern"), positions="last", pairs=1,
        progress=False,
    ).patching  # fmt: skip
    assert len(found) == len(TASKS) * 2 * layout.n_layers * layout.n_heads
    for row in found.itertuples():
        spot = Spot(int(row.layer), int(row.head))
        expected = Planted(layout, row.capability).recovers_by_head(row.site, spot)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@anywhere
@given(layouts(), seeds)
def test_patching_follows_what_is_stated_to_the_look_up(layout, seed):
    task = with_values_swapped(small_task("retrieval"))
    found = patch_activations(small_model(layout, seed), task, pairs=3, progress=False).patching
    for row in found.loc[found["pos_label"].eq("last")].itertuples():
        expected = float(row.layer > layout.look_up.layer)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@anywhere
@given(layouts(), seeds)
def test_capabilities_emerge_at_the_planted_depth(layout, seed):
    model = small_model(layout, seed)
    results = [
        ablated(layout, seed),
        logit_lens(model, TASKS, "continuation", progress=False),
        patch_activations(model, TASKS, pairs=3, progress=False),
    ]
    found = emergence(results, n_resamples=200)
    assert found.left_out.empty
    for capability, group in found.emergence.groupby("capability"):
        planted = Planted(layout, str(capability))
        depth = group.set_index(["method", "measure"])
        half = depth.xs("half-effect depth", level="measure")["layer"]
        assert half["ablation"] == pytest.approx(planted.half_effect_depth)
        assert half["logit lens"] == pytest.approx(planted.readable_from, abs=0.01)
        assert half["activation patching"] == pytest.approx(planted.moved_at, abs=0.01)
        critical = depth.loc[("ablation", "critical set"), "layers"]
        assert set(critical) == planted.critical("layer")


@pytest.mark.long
@anywhere
@given(layouts(), seeds)
def test_methods_differ_by_what_was_planted_and_groups_lose_it(layout, seed):
    model = small_model(layout, seed)
    results = [
        ablated(layout, seed, ("continuation", "generate")),
        logit_lens(model, TASKS, "continuation", progress=False),
        patch_activations(model, TASKS, pairs=3, progress=False),
        lw.attribution(model, TASKS, "continuation", progress=False),
    ]
    found = emergence(results, n_resamples=200)
    half = found.method_agreement.query("measure == 'half-effect depth'")
    by_patching = half[["first", "second"]].eq("activation patching").any(axis=1)
    assert (~by_patching).sum() == len(CAPABILITIES) * (3 + 2)
    # of three items all can be right by luck without a layer, and then there is no depth
    assert 0 < by_patching.sum() <= len(CAPABILITIES) * (3 + 1)
    for row in half.itertuples():
        planted = Planted(layout, str(row.capability))
        depth = {
            "ablation": planted.half_effect_depth,
            "logit lens": planted.readable_from,
            "direct attribution": planted.readable_from,
            "activation patching": planted.moved_at,
        }
        apart = (depth[str(row.second)] - depth[str(row.first)]) / (layout.n_layers - 1)
        assert row.estimate == pytest.approx(apart, abs=0.01)
        assert (row.first_depth, row.second_depth) == pytest.approx(
            (depth[str(row.first)] / (layout.n_layers - 1),
             depth[str(row.second)] / (layout.n_layers - 1)), abs=0.01
        )  # fmt: skip
        # the pairs of patching are three items, of which no test can be sure
        few = "activation patching" in (row.first, row.second)
        assert row.n_items == (3 if few else 24)
        assert row.p < 0.05 or few or apart == 0
        assert row.p > 0.05 or row.estimate != 0
    reads = found.method_agreement.query("first == 'direct attribution' and second == 'logit lens'")
    assert reads.query("measure == 'rank correlation'")["estimate"].gt(0.5).all()
    # what is lost under generation is lost wholly, so the layers can be counted
    interaction = found.protocol_interaction
    assert len(interaction) == len(CAPABILITIES) * 3
    for row in interaction.itertuples():
        critical = Planted(layout, str(row.capability)).critical("layer")
        assert row.second == "generate"
        assert row.share_second == pytest.approx(np.mean([k in critical for k in row.layers]))
        # all resamples say the same, and what so few items leave open is told beside it
        assert row.share_second_low < row.share_second < row.share_second_high


@pytest.mark.parametrize(
    "capabilities",
    [
        ("knowledge",),
        *(pytest.param(some, marks=pytest.mark.long) for some in (("retrieval",), CAPABILITIES)),
    ],
)
def test_layers_that_nothing_needs_are_removed_first(capabilities):
    tasks = [small_task(capability, 24) for capability in capabilities]
    idle = spared(LAYOUT, *capabilities)
    n = min(len(idle) + 1, LAYOUT.n_layers - 1)
    result = removal_order(small_model(LAYOUT), tasks, n_removed=n, progress=False)
    assert list(result.order[-1][: len(idle)]) == idle
    steps = result.steps()
    free = steps["step"] <= len(idle)
    assert (steps.loc[free, "acc"] == 1).all()
    # The step after them, where a layer is left, costs at least one of the tasks its answers.
    assert n == len(idle) or (steps.loc[~free, "acc"] < 1).any()


@pytest.mark.long
@anywhere
@given(layouts(), seeds)
def test_they_are_removed_first_wherever_they_are(layout, seed):
    idle = spared(layout, "retrieval")
    n = len(idle)
    task = small_task("retrieval", 48)
    result = removal_order(small_model(layout, seed), task, n_removed=n, progress=False)
    assert result.order[-1] == tuple(idle)


@anywhere
@given(layouts(), seeds)
def test_attribution_credits_only_the_mlp_that_writes_the_answer(layout, seed):
    """What is looked up is only prepared by heads; they add nothing themselves."""
    found = lw.attribution(small_model(layout, seed), TASKS, "continuation", progress=False)
    summary = found.summary()
    parts = summary.loc[
        (summary["metric"] == "logit_diff")
        & summary["component"].isin(["attn_out", "mlp_out", "z"])
    ]
    assert parts["signal"].all()
    for capability, mine in parts.groupby("capability"):
        writes = Planted(layout, str(capability)).readable_from
        planted = (mine["component"] == "mlp_out") & (mine["layer"] == writes)
        assert set(mine.loc[mine["significant"], "layer"]) == {writes}
        assert (mine["significant"] == planted).all()
        assert (mine.loc[planted, "value"] > 1).all()
        assert not mine.loc[~planted, "value"].abs().gt(ROUNDING).any()


def test_the_previous_token_head_is_the_planted_one():
    found = lw.head_scores(small_model(LAYOUT), length=15, sequences=5, progress=False).summary()
    best = found.loc[found["previous_token"].idxmax()]
    assert Spot(int(best["layer"]), int(best["head"])) == LAYOUT.previous
    assert best["previous_token"] == pytest.approx(1, abs=1e-4)
    assert (found["previous_token"] > 0.9).sum() == 1


@pytest.mark.parametrize("site", ["attn_out", pytest.param("mlp_out", marks=pytest.mark.long)])
def test_resampling_finds_the_layers_that_carry_what_is_asked_about(site):
    effects = ablated(LAYOUT, kind="resample", site=site).effects()
    for capability, group in effects.groupby("capability"):
        truth = Planted(LAYOUT, str(capability))
        found = group.loc[group["significant"], "layer"]
        assert set(found) == truth.critical(site, "resample")
        rest = group.loc[~group["layer"].isin(truth.critical(site))]
        assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.parametrize("site", ["mlp_out", pytest.param("attn_out", marks=pytest.mark.long)])
def test_noise_does_nothing_where_there_is_nothing(site):
    """It has a site's own covariance: none at all where nothing is written."""
    effects = ablated(LAYOUT, kind="noise", site=site).effects()
    for capability, group in effects.groupby("capability"):
        critical = Planted(LAYOUT, str(capability)).critical(site)
        assert set(group.loc[group["significant"], "layer"]) <= critical
        assert (group.loc[group["layer"].isin(critical), "nats"].abs() > 0).any()
        idle = group.loc[~group["layer"].isin(layers_in_use(LAYOUT))]
        assert not idle["nats"].abs().gt(0).any()


@anywhere
@given(layouts(), seeds)
def test_each_link_of_the_chain_is_the_one_direct_path(layout, seed):
    for capability in CAPABILITIES:
        links = Planted(layout, capability).links
        found = lw.patch_paths(
            small_model(layout, seed), small_task(capability), list(links), pairs=1, progress=False
        ).effects()
        for receiver, senders in found.groupby("receiver"):
            heads = senders["head"].astype(object).where(senders["head"].notna(), None)
            sent = list(zip(senders["layer"], heads, strict=True))
            expected = [float(sender == links[str(receiver)]) for sender in sent]
            assert sum(expected) == 1
            assert senders["recovered"].tolist() == pytest.approx(expected, abs=ROUNDING)


@anywhere
@given(layouts(), seeds)
def test_gradients_see_the_last_head_of_the_chain_and_miss_those_before_it(layout, seed):
    found = lw.attribute_patches(
        small_model(layout, seed), TASKS, sites="z", positions="last", pairs=2, sample=200,
        progress=False,
    ).cells()  # fmt: skip
    for capability, cells in found.groupby("capability"):
        truth = Planted(layout, str(capability))
        spots = [Spot(int(row.layer), int(row.head)) for row in cells.itertuples()]
        # A whole difference is 24 nats; 1e-3 is rounding of a float32 that is that large.
        truly = {s for s, true in zip(spots, cells["true"], strict=True) if abs(true) > 1e-3}
        seen = {s for s, e in zip(spots, cells["estimate"], strict=True) if abs(e) > 1e-3}
        assert truly == {s for s in spots if truth.recovers_by_head("z", s)}
        assert seen == {truth.seen_by_gradient}


@anywhere
@given(layouts(), seeds)
def test_idle_layers_turn_nothing_and_go_first_by_effect_and_by_influence(layout, seed):
    model, idle = small_model(layout, seed), spared(layout, *CAPABILITIES)
    found = lw.similarity(model, MORE_ITEMS, "continuation", progress=False)
    single = found.angular().query("n_layers == 1")
    for table, column in ((found.influence(), "influence"), (single, "distance")):
        turned = table.groupby("layer")[column].max()
        assert set(turned.index[turned < ROUNDING]) == set(idle)
    if idle:
        ways = ("effect", "influence")
        result = removal_order(model, MORE_ITEMS, n_removed=len(idle), by=ways, progress=False)
        last = {way: result.orders[way, "continuation"][-1] for way in ways}
        assert last == dict.fromkeys(ways, tuple(idle))
