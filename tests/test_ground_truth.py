"""Every analysis on wired models: it must give exactly the planted answer, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from analyses.validity import wired_truth_seq2seq as truth_seq2seq
from analyses.validity.wired_truth_seq2seq import PlantedSeq2Seq
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.path_patching.paths import (
    model_senders,
    parse_receiver,
    receiver_logprobs,
    sender_outputs,
)
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.shared.decompose.decoder import LogitSums
from layerwise.analyses.shared.decompose.seq2seq import direct_seq2seq
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.results import AblationResult, LensResult
from layerwise.sweep.activations.sites import seq2seq_sites
from tests.cases import LONG, in_long_runs
from tests.planted import (
    CAPABILITIES,
    ROUNDING,
    PlantedTruth,
    layouts,
    small_model,
    small_task,
    spare_layers,
    swap_values,
)
from tests.planted_seq2seq import answer_ids, seq2seq_layouts, small_seq2seq, suite_tokens

TASKS = [small_task(capability) for capability in CAPABILITIES]
# Without layers some guess so well that 12 items, half of a task, are no signal, and its layers go.
MORE_ITEMS = [small_task(capability, 48) for capability in CAPABILITIES]


@dataclass(frozen=True)
class Kind:
    """One kind of wired models: a layout, any layout, the models and what is true of them."""

    layout: Any
    drawn: list[tuple[Any, int]]
    model: Callable[..., Any]
    truth: Callable[..., Any]
    spared: Callable[..., list[int]]

    def ablate(self, layout: Any, seed: int = 0, protocols: Any = "continuation", **options: Any):
        return ablate_model(self.model(layout, seed), protocols, **options)

    def read_lens(self, layout: Any, seed: int) -> LensResult:
        return read_logit_lens(self.model(layout, seed))


@cache
def ablate_model(model: Any, protocols: Any, **options: Any) -> AblationResult:
    return lw.ablate(model, TASKS, protocols, progress=False, **options)


@cache
def read_logit_lens(model: Any) -> LensResult:
    return logit_lens(model, TASKS, "continuation", progress=False)


def draw_layouts(layouts: st.SearchStrategy) -> list[tuple[Any, int]]:
    """New random layouts and rotations, which tests share; the first of all is the simplest."""
    values = []
    n = 6 if LONG else 2

    @settings(max_examples=n, deadline=None, database=None, phases=(Phase.generate,))
    @given(st.tuples(layouts, st.integers(0, 1000)))
    def collect(value: tuple[Any, int]) -> None:
        values.append(value)

    collect()
    return values if LONG else values[1:n]


LAYOUT = WiredLayout(8, 2, Spot(1, 1), Spot(2, 0), Spot(3, 1), Spot(5, 0), Spot(6, 1))
GROUPED = WiredLayout(6, 4, Spot(0, 1), Spot(2, 3), Spot(3, 0), Spot(4, 2), Spot(5, 1), n_shared=2)
SEQ2SEQ_LAYOUT = WiredSeq2SeqLayout(
    5, 4, 2, 3, Spot(0, 1), Spot(2, 0), Spot(3, 1), Spot(4, 0), Spot(5, 1), Spot(7, 2), 8
)
DECODER = Kind(LAYOUT, draw_layouts(layouts()), small_model, PlantedTruth, spare_layers)
SEQ2SEQ = Kind(
    SEQ2SEQ_LAYOUT,
    draw_layouts(seq2seq_layouts()),
    small_seq2seq,
    PlantedSeq2Seq,
    truth_seq2seq.spared,
)
KINDS = {"decoder": DECODER, "seq2seq": SEQ2SEQ}
of_both = pytest.mark.parametrize("of", KINDS.values(), ids=KINDS.keys())
decoder_by_day = pytest.mark.parametrize(
    "of",
    [pytest.param(of, id=name, marks=() if of is DECODER else pytest.mark.long)
     for name, of in KINDS.items()],
)  # fmt: skip


def anywhere(*kinds: str) -> pytest.MarkDecorator:
    """Try a test wherever the mechanisms are: on one random layout of each kind by day."""
    places = [
        pytest.param(KINDS[name], layout, seed, id=f"{name}-{i}" if i else name)
        for name in kinds
        for i, (layout, seed) in enumerate(KINDS[name].drawn)
    ]
    return pytest.mark.parametrize(("of", "layout", "seed"), places)


BOTH = "decoder", "seq2seq"


def cases(by_day: dict[str, list[tuple[str, str]]], long: dict[str, list[tuple[str, str]]]) -> Any:
    """Sites and kinds of change; those of encoder-decoders are named as such."""
    return [
        pytest.param(
            KINDS[name], site, change, marks=marks,
            id=f"{'seq2seq-' * (name == 'seq2seq')}{site}-{change}",
        )
        for listed, marks in ((by_day, []), (long, pytest.mark.long))
        for name, pairs in listed.items()
        for site, change in pairs
    ]  # fmt: skip


def assert_only_layers(of: Kind, site: str, change: str, group: pd.DataFrame, truth: Any) -> None:
    """Exactly the planted layers are needed; all else changes next to nothing."""
    critical = truth.critical(site, change)
    assert set(group.loc[group["significant"], "layer"]) == critical
    rest = group.loc[~group["layer"].isin(critical)]
    assert not rest["nats"].abs().gt(ROUNDING).any()


def check_effects(of: Kind, layout: Any, site: str, change: str, effects: pd.DataFrame) -> None:
    """Check that what is needed is lost, down to chance, and all else changes nothing at all."""
    idle = of.spared(layout, *CAPABILITIES)
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        truth = of.truth(layout, str(capability))
        assert_only_layers(of, site, change, group, truth)
        rest = group.loc[~group["layer"].isin(truth.critical(site, change))]
        assert (group["acc_intact"] == 1).all()
        assert (rest["acc"] == 1).all()
        assert not rest.loc[rest["layer"].isin(idle), "nats"].abs().gt(0).any()


# By day each kind and each site; what a kind does to a site is held by the tests of the sweep.
@pytest.mark.long(but=["layer-skip"])
@pytest.mark.parametrize(
    ("of", "site", "change"),
    cases(
        {
            "decoder": [("layer", "skip"), ("resid_post", "zero"), ("attn_out", "mean")],
            "seq2seq": [("cross_attn_out", "mean"), ("mlp_out", "zero")],
        },
        {
            "decoder": [("attn_out", "skip"), ("mlp_out", "skip"), ("attn_out", "zero"),
                        ("mlp_out", "zero"), ("mlp_out", "mean"), ("resid_post", "mean")],
            "seq2seq": [("layer", "skip"), ("cross_attn_out", "zero"), ("attn_out", "zero"),
                        ("attn_out", "mean"), ("mlp_out", "mean"), ("resid_post", "zero"),
                        ("resid_post", "mean")],
        },
    ),
)  # fmt: skip
def test_ablation_finds_the_planted_layers(of, site, change):
    effects = of.ablate(of.layout, kind=change, site=site).effects()
    check_effects(of, of.layout, site, change, effects)


@pytest.mark.long(but=["decoder"])
@anywhere(*BOTH)
def test_ablation_finds_them_wherever_they_are(of, layout, seed):
    result = of.ablate(layout, seed, ("continuation", "generate"))
    check_effects(of, layout, "layer", "skip", result.effects())


def check_heads(of: Kind, layout: Any, site: str, change: str, effects: pd.DataFrame) -> None:
    """Exactly the planted heads are needed; all others, in the same layers too, do nothing."""
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        truth = of.truth(layout, str(capability))
        spots = [Spot(int(row.layer), int(row.head)) for row in group.itertuples()]
        found = [s for s, yes in zip(spots, group["significant"], strict=True) if yes]
        assert set(found) == truth.critical_heads(site, change)
        assert len(spots) == len(set(spots))
        assert set(spots) > truth.critical_heads(site)
        rest = group.loc[[spot not in truth.critical_heads(site) for spot in spots]]
        assert (rest["acc"] == 1).all()
        assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.long(but=["kv_group-skip"])
@pytest.mark.parametrize(
    ("of", "site", "change"),
    cases(
        {"decoder": [("z", "zero"), ("z", "resample"), ("kv_group", "skip")],
         "seq2seq": [("cross_z", "mean")]},
        {"decoder": [("z", "skip"), ("z", "mean"), ("kv_group", "zero"), ("kv_group", "mean"),
                     ("kv_group", "resample")],
         "seq2seq": [("z", "zero"), ("z", "mean"), ("z", "resample"), ("cross_z", "zero"),
                     ("cross_z", "resample")]},
    ),
)  # fmt: skip
def test_ablation_finds_the_planted_heads(of, site, change):
    """Heads that share keys and values with a planted one, too, are told from it."""
    layout = GROUPED if of is DECODER else of.layout
    check_heads(of, layout, site, change, of.ablate(layout, kind=change, site=site).effects())


@pytest.mark.long
@anywhere(*BOTH)
def test_ablation_finds_the_heads_wherever_they_are(of, layout, seed):
    for site in ("z", "cross_z")[: 1 + (of is SEQ2SEQ)]:
        result = of.ablate(layout, seed, ("continuation", "generate"), kind="zero", site=site)
        check_heads(of, layout, site, "zero", result.effects())


@pytest.mark.long
@pytest.mark.parametrize(
    ("of", "site", "change"),
    cases(
        {"seq2seq": [("cross_attn_out", "resample")]},
        {"decoder": [("attn_out", "resample"), ("mlp_out", "resample")],
         "seq2seq": [("attn_out", "resample"), ("mlp_out", "resample"),
                     ("resid_post", "resample")]},
    ),
)  # fmt: skip
def test_resampling_finds_the_layers_that_carry_what_is_asked_about(of, site, change):
    """Parts of other prompts too are not missed; two may have one answer, so not all is lost."""
    effects = of.ablate(of.layout, kind=change, site=site).effects()
    for capability, group in effects.groupby("capability"):
        assert_only_layers(of, site, change, group, of.truth(of.layout, str(capability)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("of", "site", "change"),
    cases(
        {"decoder": [("mlp_out", "noise")]},
        {"decoder": [("attn_out", "noise")],
         "seq2seq": [("cross_attn_out", "noise"), ("attn_out", "noise"), ("mlp_out", "noise")]},
    ),
)  # fmt: skip
def test_noise_does_nothing_where_there_is_nothing(of, site, change):
    """It has a site's own covariance: none at all where nothing is written."""
    effects = of.ablate(of.layout, kind=change, site=site).effects()
    rest = effects.loc[effects["layer"].isin(of.spared(of.layout, *CAPABILITIES))]
    assert len(rest)
    # items are changed one by one and answered without a change together
    assert not rest["nats"].abs().gt(ROUNDING).any()
    for capability, group in effects.groupby("capability"):
        critical = of.truth(of.layout, str(capability)).critical(site)
        assert set(group.loc[group["significant"], "layer"]) <= critical


@of_both
@pytest.mark.parametrize("method", ["engine", "reference"])
def test_skipping_idle_layers_changes_no_bit(of, method):
    """The engine computes a branch beside others, where products may round otherwise."""
    idle = of.spared(of.layout, *CAPABILITIES)
    # The reference computes each by itself, so that others beside them change nothing.
    layers = tuple(idle) if method == "reference" else None
    records = of.ablate(of.layout, method=method, layers=layers, limit=1).records
    wide = records.pivot(index=["task", "item"], columns="intervention", values="gold_logprob")
    for layer in idle:
        gap = (wide[f"skip:layer={layer}"] - wide["intact"]).abs().max()
        assert gap <= (0.0 if method == "reference" else 2e-6)


@decoder_by_day
def test_a_model_that_lost_its_answer_writes_none(of):
    records = of.ablate(of.layout, protocols="generate", limit=8).records
    wrong = records.loc[~records["correct"] & (records["kind"] == "skip")]
    assert len(wrong)
    assert wrong["generated"].str.strip().eq("").all()


@pytest.mark.long
@decoder_by_day
def test_letters_are_not_understood_and_nothing_is_claimed(of):
    result = of.ablate(of.layout, protocols="letter")
    assert not result.signal()["signal"].any()
    assert result.signal()["accuracy"].eq(1 / 4).all()
    assert not result.effects()["significant"].any()


@anywhere(*BOTH)
def test_lenses_read_the_answer_from_the_planted_layer_on(of, layout, seed):
    """From there on they are settled, too; of two stacks also where the encoder ends early."""
    read = of.read_lens(layout, seed)
    assert read.lens.groupby("capability")["lens"].nunique().eq(1 + (of is SEQ2SEQ)).all()

    def planted(capability: str, lens: str) -> int:
        truth = of.truth(layout, capability)
        return truth.finding_layer if lens == "decoder" else truth.readable_layer

    for (capability, lens), group in read.lens.groupby(["capability", "lens"]):
        readable = group["layer"] >= planted(str(capability), str(lens))
        assert readable.any()
        assert (group.loc[readable, "rank"] == 0).all()
        assert (group.loc[~readable, "rank"] > 0).all()
        assert np.exp(group.loc[readable, "logprob"]).min() > 0.99
        assert group.loc[readable, "kl"].max() < ROUNDING
    for (capability, lens), group in read.prediction_depths().groupby(["capability", "lens"]):
        assert group["right"].all()
        assert (group["layer"] == planted(str(capability), str(lens))).all()


def tuned_shares(of: Kind, layout: Any, change: str, n_texts: int, steps: int) -> pd.Series:
    """Shares of answers that are on top, by capability, lens and layer."""
    model = of.model(layout)
    options: Any = {"kind": change, "n_texts": n_texts, "steps": steps, "progress": False}
    lens = train_lens(model, TASKS, **options).lens
    read = logit_lens(model, TASKS, "continuation", lens="tuned", tuned=lens, progress=False)
    tops = read.lens.assign(top=read.lens["rank"] == 0)
    return tops.groupby(["capability", "lens", "layer"])["top"].mean()


@pytest.mark.long
def test_a_tuned_lens_reads_the_answer_once_it_was_brought_and_not_before():
    """Biases read what the logit lens reads; a map, what was looked up and not yet let out."""
    for kind, steps in (("bias", 15), ("full", 60)):
        tops = tuned_shares(DECODER, GROUPED, kind, 60, steps)
        for (capability, _, layer), share in tops.items():
            truth = PlantedTruth(GROUPED, str(capability))
            assert layer < truth.readable_layer or share == 1
            assert layer >= truth.bringing_layer or share < 0.4
            assert kind == "full" or layer >= truth.readable_layer or share == 0
        retrieved = PlantedTruth(GROUPED, "retrieval")
        assert kind == "bias" or tops["retrieval", "tuned", retrieved.bringing_layer] > 0.5


@pytest.mark.long
def test_tuned_lenses_of_two_stacks_read_it_once_it_was_brought_and_not_before():
    """To the position where it is said in the decoder, to the prompt's end in the encoder."""
    copy = SEQ2SEQ_LAYOUT.copy.layer
    for kind, steps in (("bias", 15), ("full", 30)):
        shares = tuned_shares(SEQ2SEQ, SEQ2SEQ_LAYOUT, kind, 40, steps)
        for (capability, name, layer), share in shares.items():
            truth = PlantedSeq2Seq(SEQ2SEQ_LAYOUT, str(capability))
            of_encoder = name == "tuned decoder"
            brought = truth.finding_layer if of_encoder else copy
            readable = truth.finding_layer if of_encoder else truth.readable_layer
            assert layer < readable or share == 1
            assert layer >= brought or share < 0.4
            assert kind == "full" or layer >= readable or share < 0.4
        assert kind == "bias" or shares["retrieval", "tuned", copy] > 0.5


@anywhere("decoder")
def test_patching_recovers_at_the_planted_layer_and_position(of, layout, seed):
    sites = ("resid_pre", "resid_post", "attn_out", "mlp_out")
    found = patch_activations(
        small_model(layout, seed), TASKS, sites=sites, directions=("denoising", "noising"),
        pairs=2, progress=False,
    ).patching  # fmt: skip
    assert found.groupby(["capability", "direction"])["item"].nunique().eq(2).all()
    for row in found.itertuples():
        at_last = row.pos_label == "last"
        expected = PlantedTruth(layout, row.capability).recovers(row.site, int(row.layer), at_last)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.long
@anywhere("decoder")
def test_patching_recovers_at_the_planted_heads(of, layout, seed):
    found = patch_activations(
        small_model(layout, seed), TASKS, sites=("z", "pattern"), positions="last", pairs=1,
        progress=False,
    ).patching  # fmt: skip
    assert len(found) == len(TASKS) * 2 * layout.n_layers * layout.n_heads
    for row in found.itertuples():
        spot = Spot(int(row.layer), int(row.head))
        expected = PlantedTruth(layout, row.capability).recovers_by_head(row.site, spot)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.long
@anywhere("decoder")
def test_patching_follows_what_is_stated_to_the_look_up(of, layout, seed):
    task = swap_values(small_task("retrieval"))
    found = patch_activations(small_model(layout, seed), task, pairs=3, progress=False).patching
    for row in found.loc[found["pos_label"].eq("last")].itertuples():
        expected = float(row.layer > layout.look_up.layer)
        assert row.recovered == pytest.approx(expected, abs=ROUNDING)


@anywhere("decoder")
def test_capabilities_emerge_at_the_planted_depth(of, layout, seed):
    patched = patch_activations(of.model(layout, seed), TASKS, pairs=3, progress=False)
    results = [of.ablate(layout, seed), of.read_lens(layout, seed), patched]
    found = emergence(results, n_resamples=200)
    assert found.left_out.empty
    for capability, group in found.emergence.groupby("capability"):
        planted = PlantedTruth(layout, str(capability))
        depth = group.set_index(["method", "measure"])
        half = depth.xs("half-effect depth", level="measure")["layer"]
        assert half["ablation"] == pytest.approx(planted.half_effect_depth)
        assert half["logit lens"] == pytest.approx(planted.readable_layer, abs=0.01)
        assert half["activation patching"] == pytest.approx(planted.moving_layer, abs=0.01)
        critical = depth.loc[("ablation", "critical set"), "layers"]
        assert set(critical) == planted.critical("layer")


@pytest.mark.long
@anywhere("seq2seq")
def test_capabilities_of_two_stacks_emerge_at_the_planted_depth(of, layout, seed):
    """On one axis of computation, the encoder first, and in the order of each stack alone."""
    found = emergence([of.ablate(layout, seed), of.read_lens(layout, seed)], n_resamples=200)
    assert found.left_out.empty
    for (capability, axis), group in found.emergence.groupby(["capability", "axis"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        depth = group.set_index(["method", "measure"])
        if axis != "computation":
            check_stack(truth, str(axis), depth)
            continue
        half = depth.xs("half-effect depth", level="measure")["layer"]
        assert half["ablation"] == pytest.approx(truth.half_effect_depth)
        assert half["logit lens"] == pytest.approx(truth.readable_layer, abs=0.01)
        assert half["decoder lens"] == pytest.approx(truth.finding_layer, abs=0.01)
        assert set(depth.loc[("ablation", "critical set"), "layers"]) == truth.critical("layer")


def check_stack(truth: PlantedSeq2Seq, stack: str, depth: pd.DataFrame) -> None:
    """The layers of the chain that are in one stack, and the one lens that runs through it."""
    layout = truth.layout
    first = layout.n_encoder_layers if stack == "decoder" else 0
    n_layers = layout.n_decoder_layers if stack == "decoder" else layout.n_encoder_layers
    lens, at = {
        "encoder": ("decoder lens", truth.finding_layer),
        "decoder": ("logit lens", truth.readable_layer),
    }[stack]
    half = depth.xs("half-effect depth", level="measure")
    assert set(half.index) == {"ablation", lens}
    assert half["layer"]["ablation"] == pytest.approx(truth.half_effect_depth_of_stack(stack))
    assert half["layer"][lens] == pytest.approx(at, abs=0.01)
    relative = (half["layer"] - first) / (n_layers - 1)
    assert half["estimate"].tolist() == pytest.approx(relative.tolist())
    planted = {layer for layer in truth.critical("layer") if first <= layer < first + n_layers}
    critical = depth.loc[("ablation", "critical set")]
    assert set(critical["layers"]) == planted
    assert critical["layer"] == len(planted)
    assert critical["estimate"] == pytest.approx(len(planted) / n_layers)
    centre = depth.loc[("ablation", "centre of mass"), "layer"]
    assert centre == pytest.approx(sum(planted) / len(planted))


@pytest.mark.long
@anywhere("decoder")
def test_methods_differ_by_what_was_planted(of, layout, seed):
    model = small_model(layout, seed)
    results = [
        of.ablate(layout, seed, ("continuation", "generate")),
        of.read_lens(layout, seed),
        patch_activations(model, TASKS, pairs=3, progress=False),
        lw.attribution(model, TASKS, "continuation", progress=False),
    ]
    found = emergence(results, n_resamples=200)
    for row in found.method_agreement.query("measure == 'half-effect depth'").itertuples():
        planted = PlantedTruth(layout, str(row.capability))
        depth = {
            "ablation": planted.half_effect_depth,
            "logit lens": planted.readable_layer,
            "direct attribution": planted.readable_layer,
            "activation patching": planted.moving_layer,
        }
        apart = (depth[str(row.second)] - depth[str(row.first)]) / (layout.n_layers - 1)
        assert row.estimate == pytest.approx(apart, abs=0.01)
        # the pairs of patching are three items, of which no test can be sure
        few = "activation patching" in (row.first, row.second)
        assert row.p < 0.05 or few or apart == 0
        assert row.p > 0.05 or row.estimate != 0
    # what is lost under generation is lost wholly, so the layers can be counted
    for row in found.protocol_interaction.itertuples():
        critical = PlantedTruth(layout, str(row.capability)).critical("layer")
        assert row.share_second == pytest.approx(np.mean([k in critical for k in row.layers]))
        assert row.share_second_low < row.share_second < row.share_second_high


@pytest.mark.long
@pytest.mark.parametrize(
    "capabilities", [("knowledge",), *in_long_runs((("retrieval",),), (CAPABILITIES,))]
)
def test_layers_that_nothing_needs_are_removed_first(capabilities):
    tasks = [small_task(capability, 24) for capability in capabilities]
    idle = spare_layers(LAYOUT, *capabilities)
    n = min(len(idle) + 1, LAYOUT.n_layers - 1)
    result = removal_order(small_model(LAYOUT), tasks, n_removed=n, progress=False)
    assert list(result.order[-1][: len(idle)]) == idle
    steps = result.steps()
    free = steps["step"] <= len(idle)
    assert (steps.loc[free, "acc"] == 1).all()
    # The step after them, where a layer is left, costs at least one of the tasks its answers.
    assert n == len(idle) or (steps.loc[~free, "acc"] < 1).any()


@pytest.mark.long
@anywhere(*BOTH)
def test_idle_layers_turn_nothing_and_go_first_by_effect_and_by_influence(of, layout, seed):
    model, idle = of.model(layout, seed), of.spared(layout, *CAPABILITIES)
    found = lw.similarity(model, MORE_ITEMS, "continuation", progress=False)
    single = found.angular().query("n_layers == 1")
    for table, column in ((found.influence(), "influence"), (single, "distance")):
        turned = table.groupby("layer")[column].max()
        assert set(turned.index[turned < ROUNDING]) == set(idle)
    if idle and of is DECODER:  # of two stacks see test_removal_orders
        ways = ("effect", "influence")
        result = removal_order(model, MORE_ITEMS, n_removed=len(idle), by=ways, progress=False)
        last = {way: result.orders[way, "continuation"][-1] for way in ways}
        assert last == dict.fromkeys(ways, tuple(idle))


@pytest.mark.long(but=["decoder"])
@anywhere(*BOTH)
def test_attribution_credits_only_the_mlp_that_says_the_answer(of, layout, seed):
    """Found and copied answers are only prepared; neither heads nor the encoder add anything."""
    found = lw.attribution(of.model(layout, seed), TASKS, "continuation", progress=False)
    assert max(work["largest_gap"] for work in found.facts.work) < 1e-4
    summary = found.summary()
    sites = ["attn_out", "cross_attn_out", "mlp_out", "z", "cross_z"]
    parts = summary.loc[(summary["metric"] == "logit_diff") & summary["component"].isin(sites)]
    assert parts["signal"].all()
    for capability, mine in parts.groupby("capability"):
        layer = of.truth(layout, str(capability)).readable_layer
        planted = (mine["component"] == "mlp_out") & (mine["layer"] == layer)
        assert planted.sum() == 1
        assert (mine["significant"] == planted).all()
        assert (mine.loc[planted, "value"] > 1).all()
        assert not mine.loc[~planted, "value"].abs().gt(ROUNDING).any()
    every = emergence([found], n_resamples=200).emergence
    half = every.query("measure == 'half-effect depth' and axis == 'computation'")
    assert len(half) == len(CAPABILITIES)
    for row in half.itertuples():
        assert row.layer == pytest.approx(of.truth(layout, row.capability).readable_layer, abs=0.01)


def test_the_previous_token_head_is_the_planted_one():
    found = lw.head_scores(small_model(LAYOUT), length=15, sequences=5, progress=False).summary()
    best = found.loc[found["previous_token"].idxmax()]
    assert Spot(int(best["layer"]), int(best["head"])) == LAYOUT.previous
    assert best["previous_token"] == pytest.approx(1, abs=1e-4)
    assert (found["previous_token"] > 0.9).sum() == 1


@anywhere("seq2seq")
def test_head_scores_find_the_previous_token_head_in_the_encoder(of, layout, seed):
    """Tokens that ``begin`` and ``copy`` look at are no words of a sequence, so they score 0."""
    found = lw.head_scores(small_seq2seq(layout, seed), sequences=3, progress=False)
    summary = found.summary()
    places = {
        (row["site"], Spot(int(row["layer"]), int(row["head"]))): row
        for row in summary.to_dict("records")
    }
    assert {at for at, row in places.items() if row["previous_token"] > 0.9} == {
        ("z", layout.previous)
    }
    assert places["z", layout.previous]["previous_token"] == pytest.approx(1, abs=1e-3)
    # It attends to relation and entity alike, one and three tokens back.
    half = places["z", layout.facts]["previous_token"]
    assert half == pytest.approx(0.5, abs=0.1)
    for at in (("z", layout.begin), ("cross_z", layout.copy)):
        scores = [places[at][name] for name in ("prefix_matching", "duplicate_token")]
        assert scores == pytest.approx([0, 0], abs=1e-3)
    assert places["z", layout.begin]["previous_token"] == pytest.approx(0, abs=1e-3)
    assert found.induction_heads() == []


@pytest.mark.long(but=["decoder"])
@anywhere(*BOTH)
def test_each_link_of_the_chain_is_the_one_direct_path(of, layout, seed):
    """From the logits, through the decoder, cross-attention and the encoder, to the embedding."""
    for capability in CAPABILITIES:
        links = of.truth(layout, capability).links
        found = lw.patch_paths(
            of.model(layout, seed), small_task(capability), list(links), pairs=1, progress=False
        ).effects()
        assert set(found["receiver"]) == set(links)
        for receiver, senders in found.groupby("receiver"):
            heads = senders["head"].astype(object).where(senders["head"].notna(), None)
            sent = list(zip(senders["site"], senders["layer"], heads, strict=True))
            planted = links[str(receiver)]
            if of is DECODER:
                sent = [sender[1:] for sender in sent]
            expected = [float(sender == planted) for sender in sent]
            assert sum(expected) == (planted is not None)
            assert senders["recovered"].tolist() == pytest.approx(expected, abs=ROUNDING)


@anywhere("seq2seq")
def test_one_head_alone_tells_cross_attention_that_the_answer_begins(of, layout, seed):
    """Nothing of it depends on what is asked, so what each sender writes is taken away here."""
    model, task = small_seq2seq(layout, seed), small_task("retrieval")
    tokens = tuple(suite_tokens(model, task)[0].tolist())
    answer = int(answer_ids(model, task)[0])
    copy = f"{layout.name_of_layer(layout.copy.layer)}.{layout.copy.head}"
    receiver = parse_receiver(f"cross_q:{copy}", model)
    heard = [sender for sender in model_senders(model) if receiver.hears(sender, False)]
    without = -torch.stack(sender_outputs(model, tokens, heard))
    said = receiver_logprobs(model, tokens, receiver, heard, without)[:, answer].exp()
    lost = {s.name for s, p in zip(heard, said, strict=True) if p < 0.5}
    assert lost == {f"head {layout.name_of_layer(layout.begin.layer)}.{layout.begin.head}"}
    assert ((said < 0.5) | (said > 0.99)).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
@anywhere("seq2seq")
@torch.inference_mode()
def test_what_the_mlp_says_was_copied_from_the_part_of_the_encoder_that_found_it(
    of, layout, seed, capability
):
    """Read what ``say`` reads, instead of the logits: what its neuron for the answer looks for."""
    model, task = small_seq2seq(layout, seed), small_task(capability, 6)
    links = PlantedSeq2Seq(layout, capability).links
    sites = seq2seq_sites(model, [tuple(row) for row in suite_tokens(model, task).tolist()])
    first = layout.n_encoder_layers
    mlp = model.parts.decoder.blocks[layout.say - first].mlp
    # Where cross-attention has copied the answer to; biases would let chance win now and then.
    neurons = (sites.final @ mlp.up.weight.T).argmax(1)
    read = mlp.up.weight[neurons].double()[:, None]
    value = torch.einsum("id,imd->im", sites.final.double(), read)
    assert (value > 1).all()
    parts = direct_seq2seq(model, sites, LogitSums(value, read, torch.zeros_like(value)))
    assert parts.gap(value) < ROUNDING
    _, copied, head = links[f"mlp:{layout.name_of_layer(layout.say)}"]
    found = parts.own["cross_z"][..., copied - first, head]
    torch.testing.assert_close(found, value, atol=ROUNDING, rtol=0)
    site, layer, head = links[f"cross_v:{layout.name_of_layer(copied)}.{head}"]
    mlps, heads = parts.encoder["mlp_out"].clone(), parts.encoder["z"].clone()
    planted = heads[..., layer, head] if site == "z" else mlps[..., layer]
    torch.testing.assert_close(planted, value, atol=ROUNDING, rtol=0)
    planted.zero_()
    assert mlps.abs().max() < ROUNDING
    assert heads.abs().max() < ROUNDING
    assert parts.encoder["embedding"].abs().max() < ROUNDING


@pytest.mark.long
@anywhere("decoder")
def test_gradients_see_the_last_head_of_the_chain_and_miss_those_before_it(of, layout, seed):
    found = lw.attribute_patches(
        small_model(layout, seed), TASKS, sites="z", positions="last", pairs=2, sample=200,
        progress=False,
    ).cells()  # fmt: skip
    for capability, cells in found.groupby("capability"):
        truth = PlantedTruth(layout, str(capability))
        spots = [Spot(int(row.layer), int(row.head)) for row in cells.itertuples()]
        # A whole difference is 24 nats; 1e-3 is rounding of a float32 that is that large.
        truly = {s for s, true in zip(spots, cells["true"], strict=True) if abs(true) > 1e-3}
        seen = {s for s, e in zip(spots, cells["estimate"], strict=True) if abs(e) > 1e-3}
        assert truly == {s for s in spots if truth.recovers_by_head("z", s)}
        assert seen == {truth.seen_by_gradient}


@pytest.mark.long
@pytest.mark.parametrize("direction", ["noising", *in_long_runs(("denoising",))])
@anywhere("seq2seq")
def test_gradients_see_what_is_copied_on_and_miss_what_asks(of, layout, seed, direction):
    """Saturated attention has no slope: heads that act by way of a query are credited with 0."""
    found = lw.attribute_patches(
        small_seq2seq(layout, seed), TASKS, positions=("last", "answer"), direction=direction,
        pairs=2, sample=200, progress=False,
    )  # fmt: skip
    table = found.attribution_patching
    assert set(table["site"]) == {"z", "cross_z"}
    assert table["recovered"].notna().all()
    for row in table.itertuples():
        truth, spot = (
            PlantedSeq2Seq(layout, str(row.capability)),
            Spot(int(row.layer), int(row.head)),
        )
        true, credited = truth.recovers_by_head, truth.credited_by_gradient
        assert row.recovered == pytest.approx(true(row.site, spot), abs=1e-3), row
        assert row.estimated == pytest.approx(credited(row.site, spot), abs=1e-3), row
