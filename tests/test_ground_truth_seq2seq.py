"""Every analysis on wired encoder-decoders: it must give exactly the planted answer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.path_patching.components import parse_receiver, senders_of
from layerwise.analyses.path_patching.paths import received, written
from layerwise.analyses.shared.decompose import LogitSums
from layerwise.analyses.shared.decompose_seq2seq import direct_seq2seq
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import PlantedSeq2Seq, spared
from layerwise.sweep.seq2seq.sites import seq2seq_sites
from tests.cases import in_long_runs
from tests.planted import (
    CAPABILITIES,
    ROUNDING,
    assert_lost_answers_are_not_written,
    assert_no_bit_changed,
    assert_nothing_is_claimed_of_letters,
    small_task,
)
from tests.planted_seq2seq import answers_of, seq2seq_layouts, small_seq2seq, tokens_of

LAYOUT = WiredSeq2SeqLayout(
    5, 4, 2, 3, Spot(0, 1), Spot(2, 0), Spot(3, 1), Spot(4, 0), Spot(5, 1), Spot(7, 2), 8
)
TASKS = [small_task(capability) for capability in CAPABILITIES]
anywhere = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.generate))
seeds = st.integers(0, 1000)


def ablated(layout, seed=0, protocols="continuation", **options):
    model = small_seq2seq(layout, seed)
    return lw.ablate(model, TASKS, protocols, progress=False, **options)


def check_effects(
    layout: WiredSeq2SeqLayout, site: str, effects: pd.DataFrame, kind: str = "skip"
) -> None:
    """What is needed is lost, down to chance; all else changes nothing at all."""
    idle = spared(layout, *CAPABILITIES)
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        critical = PlantedSeq2Seq(layout, str(capability)).critical(site, kind)
        assert set(group.loc[group["significant"], "layer"]) == critical
        rest = group.loc[~group["layer"].isin(critical)]
        assert (group["acc_intact"] == 1).all()
        assert (rest["acc"] == 1).all()
        assert not rest["nats"].abs().gt(ROUNDING).any()
        assert not rest.loc[rest["layer"].isin(idle), "nats"].abs().gt(0).any()


# By day each kind and each site; what a kind does to a site is held by the tests of the sweep.
@pytest.mark.parametrize(
    ("kind", "site"),
    [
        ("skip", "layer"), ("zero", "attn_out"), ("zero", "resid_post"),
        ("mean", "cross_attn_out"), ("mean", "mlp_out"),
        *in_long_runs(
            ("zero", "cross_attn_out"), ("zero", "mlp_out"), ("mean", "attn_out"),
            ("mean", "resid_post"),
        ),
    ],
)  # fmt: skip
def test_ablation_finds_the_planted_layers(kind, site):
    check_effects(LAYOUT, site, ablated(LAYOUT, kind=kind, site=site).effects(), kind)


@anywhere
@given(seq2seq_layouts(), seeds)
def test_ablation_finds_them_wherever_they_are(layout, seed):
    result = ablated(layout, seed, ("continuation", "generate"))
    check_effects(layout, "layer", result.effects())


def check_heads(layout, site: str, kind: str, effects: pd.DataFrame) -> None:
    """Exactly the planted heads are needed; all others, in the same layers too, do nothing."""
    for (capability, _), group in effects.groupby(["capability", "protocol"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        spots = [Spot(int(row.layer), int(row.head)) for row in group.itertuples()]
        found = [s for s, yes in zip(spots, group["significant"], strict=True) if yes]
        assert set(found) == truth.critical_heads(site, kind)
        assert len(spots) == len(set(spots))
        assert set(spots) > truth.critical_heads(site)
        rest = group.loc[[spot not in truth.critical_heads(site) for spot in spots]]
        assert (rest["acc"] == 1).all()
        assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.parametrize(
    ("site", "kind"),
    [
        ("z", "zero"), ("cross_z", "mean"), ("cross_z", "resample"),
        *in_long_runs(("z", "mean"), ("z", "resample"), ("cross_z", "zero")),
    ],
)  # fmt: skip
def test_ablation_finds_the_planted_heads(kind, site):
    check_heads(LAYOUT, site, kind, ablated(LAYOUT, kind=kind, site=site).effects())


@pytest.mark.long
@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(["z", "cross_z"]))
def test_ablation_finds_the_heads_wherever_they_are(layout, seed, site):
    result = ablated(layout, seed, ("continuation", "generate"), kind="zero", site=site)
    check_heads(layout, site, "zero", result.effects())


@pytest.mark.parametrize(
    "site",
    ["attn_out", "cross_attn_out",
     *(pytest.param(site, marks=pytest.mark.long) for site in ("mlp_out", "resid_post"))],
)  # fmt: skip
def test_what_other_prompts_have_too_is_not_missed(site):
    """Effects of resampling: two prompts may have one answer, so less than all is lost."""
    effects = ablated(LAYOUT, kind="resample", site=site).effects()
    for capability, group in effects.groupby("capability"):
        truth = PlantedSeq2Seq(LAYOUT, str(capability))
        assert set(group.loc[group["significant"], "layer"]) == truth.critical(site, "resample")
        rest = group.loc[~group["layer"].isin(truth.critical(site, "resample"))]
        assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.parametrize(
    "site",
    ["cross_attn_out",
     *(pytest.param(site, marks=pytest.mark.long) for site in ("attn_out", "mlp_out"))],
)  # fmt: skip
def test_noise_shaped_like_nothing_is_nothing(site):
    effects = ablated(LAYOUT, kind="noise", site=site).effects()
    rest = effects.loc[effects["layer"].isin(spared(LAYOUT, *CAPABILITIES))]
    assert len(rest)
    # items are changed one by one and answered without a change together
    assert not rest["nats"].abs().gt(ROUNDING).any()


@pytest.mark.parametrize("method", ["engine", "reference"])
def test_skipping_idle_layers_changes_no_bit(method):
    idle = spared(LAYOUT, *CAPABILITIES)
    # The reference computes each by itself, so that others beside them change nothing.
    layers = idle if method == "reference" else None
    records = ablated(LAYOUT, method=method, layers=layers, limit=1).records
    assert_no_bit_changed(records, idle, method)


def test_a_model_that_lost_its_answer_writes_none():
    assert_lost_answers_are_not_written(ablated(LAYOUT, protocols="generate", limit=8).records)


def test_letters_are_not_understood_and_nothing_is_claimed():
    assert_nothing_is_claimed_of_letters(ablated(LAYOUT, protocols="letter"))


@anywhere
@given(seq2seq_layouts(), seeds)
def test_lenses_read_the_answer_from_the_planted_layer_on(layout, seed):
    """Both: that of the decoder, and what is said where the encoder ends early."""
    read = logit_lens(small_seq2seq(layout, seed), TASKS, "continuation", progress=False)
    assert read.lens.groupby("capability")["lens"].nunique().eq(2).all()
    for (capability, lens), group in read.lens.groupby(["capability", "lens"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        readable = group["layer"] >= (truth.found_at if lens == "decoder" else truth.readable_from)
        assert readable.any()
        assert (group.loc[readable, "rank"] == 0).all()
        assert (group.loc[~readable, "rank"] > 0).all()
        assert np.exp(group.loc[readable, "logprob"]).min() > 0.99
        assert group.loc[readable, "kl"].max() < ROUNDING
    for (capability, lens), group in read.prediction_depths().groupby(["capability", "lens"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        expected = truth.found_at if lens == "decoder" else truth.readable_from
        assert group["right"].all()
        assert (group["layer"] == expected).all()


@anywhere
@given(seq2seq_layouts(), seeds)
def test_each_link_of_the_chain_is_the_one_direct_path(layout, seed):
    """From the logits through the decoder, cross-attention and the encoder to its embedding."""
    for capability in CAPABILITIES:
        links = PlantedSeq2Seq(layout, capability).links
        found = lw.patch_paths(
            small_seq2seq(layout, seed), small_task(capability), list(links), pairs=1,
            progress=False,
        ).effects()  # fmt: skip
        assert set(found["receiver"]) == set(links)
        for receiver, senders in found.groupby("receiver"):
            heads = senders["head"].astype(object).where(senders["head"].notna(), None)
            sent = list(zip(senders["site"], senders["layer"], heads, strict=True))
            planted = links[str(receiver)]
            expected = [float(sender == planted) for sender in sent]
            assert sum(expected) == (planted is not None)
            assert senders["recovered"].tolist() == pytest.approx(expected, abs=ROUNDING)


@anywhere
@given(seq2seq_layouts(), seeds)
def test_one_head_alone_tells_cross_attention_that_the_answer_begins(layout, seed):
    """Nothing of it depends on what is asked, so what each sender writes is taken away here."""
    model, task = small_seq2seq(layout, seed), small_task("retrieval")
    tokens = tuple(tokens_of(model, task)[0].tolist())
    answer = int(answers_of(model, task)[0])
    copy = f"{layout.named(layout.copy.layer)}.{layout.copy.head}"
    receiver = parse_receiver(f"cross_q:{copy}", model)
    heard = [sender for sender in senders_of(model) if receiver.hears(sender, False)]
    without = -torch.stack(written(model, tokens, heard))
    said = received(model, tokens, receiver, heard, without)[:, answer].exp()
    lost = {s.name for s, p in zip(heard, said, strict=True) if p < 0.5}
    assert lost == {f"head {layout.named(layout.begin.layer)}.{layout.begin.head}"}
    assert ((said < 0.5) | (said > 0.99)).all()


def check_stack(truth: PlantedSeq2Seq, stack: str, depth: pd.DataFrame) -> None:
    """The layers of the chain that are in one stack, and the one lens that runs through it."""
    layout = truth.layout
    first = layout.n_encoder_layers if stack == "decoder" else 0
    n_layers = layout.n_decoder_layers if stack == "decoder" else layout.n_encoder_layers
    lens, at = {
        "encoder": ("decoder lens", truth.found_at),
        "decoder": ("logit lens", truth.readable_from),
    }[stack]
    half = depth.xs("half-effect depth", level="measure")
    assert set(half.index) == {"ablation", lens}
    assert half["layer"]["ablation"] == pytest.approx(truth.half_effect_depth_in(stack))
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


@anywhere
@given(seq2seq_layouts(), seeds)
def test_attribution_credits_only_the_mlp_that_says_the_answer(layout, seed):
    """What is found and copied is only prepared; neither heads nor the encoder add anything."""
    model = small_seq2seq(layout, seed)
    found = lw.attribution(model, TASKS, "continuation", progress=False)
    assert max(work["largest_gap"] for work in found.facts.work) < 1e-4
    summary = found.summary()
    sites = ["attn_out", "cross_attn_out", "mlp_out", "z", "cross_z"]
    parts = summary.loc[(summary["metric"] == "logit_diff") & summary["component"].isin(sites)]
    assert parts["signal"].all()
    for capability, mine in parts.groupby("capability"):
        site, layer, _ = PlantedSeq2Seq(layout, str(capability)).links["logits"]
        planted = (mine["component"] == site) & (mine["layer"] == layer)
        assert planted.sum() == 1
        assert (mine["significant"] == planted).all()
        assert (mine.loc[planted, "value"] > 1).all()
        assert not mine.loc[~planted, "value"].abs().gt(ROUNDING).any()
    every = emergence([found], n_resamples=200).emergence
    half = every.query("measure == 'half-effect depth' and axis == 'computation'")
    assert len(half) == len(CAPABILITIES)
    assert half["layer"].to_numpy() == pytest.approx(layout.say, abs=0.01)


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
@torch.inference_mode()
def test_what_the_mlp_says_was_copied_from_the_part_of_the_encoder_that_found_it(
    layout, seed, capability
):
    """Read what ``say`` reads, instead of the logits: what its neuron for the answer looks for."""
    model, task = small_seq2seq(layout, seed), small_task(capability, 6)
    links = PlantedSeq2Seq(layout, capability).links
    sites = seq2seq_sites(model, [tuple(row) for row in tokens_of(model, task).tolist()])
    first = layout.n_encoder_layers
    mlp = model.parts.decoder.blocks[layout.say - first].mlp
    # Where cross-attention has copied the answer to; biases would let chance win now and then.
    neurons = (sites.final @ mlp.up.weight.T).argmax(1)
    read = mlp.up.weight[neurons].double()[:, None]
    value = torch.einsum("id,imd->im", sites.final.double(), read)
    assert (value > 1).all()
    parts = direct_seq2seq(model, sites, LogitSums(value, read, torch.zeros_like(value)))
    assert parts.gap(value) < ROUNDING
    _, copied, head = links[f"mlp:{layout.named(layout.say)}"]
    found = parts.own["cross_z"][..., copied - first, head]
    torch.testing.assert_close(found, value, atol=ROUNDING, rtol=0)
    site, layer, head = links[f"cross_v:{layout.named(copied)}.{head}"]
    mlps, heads = parts.encoder["mlp_out"].clone(), parts.encoder["z"].clone()
    planted = heads[..., layer, head] if site == "z" else mlps[..., layer]
    torch.testing.assert_close(planted, value, atol=ROUNDING, rtol=0)
    planted.zero_()
    assert mlps.abs().max() < ROUNDING
    assert heads.abs().max() < ROUNDING
    assert parts.encoder["embedding"].abs().max() < ROUNDING


@anywhere
@given(seq2seq_layouts(), seeds)
def test_capabilities_emerge_at_the_planted_depth(layout, seed):
    """On one axis of computation, the encoder first, and in the order of each stack alone."""
    read = logit_lens(small_seq2seq(layout, seed), TASKS, "continuation", progress=False)
    found = emergence([ablated(layout, seed), read], n_resamples=200)
    assert found.left_out.empty
    for (capability, axis), group in found.emergence.groupby(["capability", "axis"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        depth = group.set_index(["method", "measure"])
        if axis != "computation":
            check_stack(truth, str(axis), depth)
            continue
        half = depth.xs("half-effect depth", level="measure")["layer"]
        assert half["ablation"] == pytest.approx(truth.half_effect_depth)
        assert half["logit lens"] == pytest.approx(truth.readable_from, abs=0.01)
        assert half["decoder lens"] == pytest.approx(truth.found_at, abs=0.01)
        assert set(depth.loc[("ablation", "critical set"), "layers"]) == truth.critical("layer")


@anywhere
@given(seq2seq_layouts(), seeds)
def test_head_scores_find_the_previous_token_head_in_the_encoder(layout, seed):
    """What ``begin`` and ``copy`` look at is no word of a sequence, so they score 0."""
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


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(["denoising", "noising"]))
def test_gradients_see_what_is_copied_on_and_miss_what_asks(layout, seed, direction):
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


@pytest.mark.long
def test_tuned_lenses_read_the_answer_once_it_was_brought_and_not_before():
    """To the position where it is said in the decoder, to the prompt's end in the encoder."""
    model = small_seq2seq(LAYOUT)
    for kind, steps in (("bias", 15), ("full", 30)):
        lens = train_lens(model, TASKS, kind=kind, n_texts=40, steps=steps, progress=False).lens
        read = logit_lens(model, TASKS, "continuation", lens="tuned", tuned=lens, progress=False)
        tops = read.lens.assign(top=read.lens["rank"] == 0)
        shares = tops.groupby(["capability", "lens", "layer"])["top"].mean()
        for (capability, name, layer), share in shares.items():
            truth = PlantedSeq2Seq(LAYOUT, str(capability))
            of_encoder = name == "tuned decoder"
            brought = truth.found_at if of_encoder else LAYOUT.copy.layer
            readable = truth.found_at if of_encoder else truth.readable_from
            assert layer < readable or share == 1
            assert layer >= brought or share < 0.4
            assert kind == "full" or layer >= readable or share < 0.4
        if kind == "full":
            assert shares["retrieval", "tuned", LAYOUT.copy.layer] > 0.5
