"""Activation patching of encoder-decoders against plain hooks, and where the truth was planted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import layerwise as lw
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.patching.analysis import hand_overs, take_ups
from layerwise.analyses.patching.cells import HEAD_SITES, PATCH_SITES, PatchingLayout
from layerwise.analyses.registry import tables_of_run
from layerwise.errors import UserError
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import PlantedSeq2Seq
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.presentation.naming import naming_layers_of
from layerwise.report.html import findings
from layerwise.sweep import LogLikelihood
from layerwise.tasks import PatchingPrompts, Task, build_requests, load_task, patching_prompts
from tests.analysis import prompt_pair, word_task
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import seq2seq_layouts, small_seq2seq

HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "resid_mid_cross": "hook_resid_mid_cross",
    "cross_attn_out": "hook_cross_attn_out",
    "cross_z": "cross_attn.hook_z",
    "cross_pattern": "cross_attn.hook_pattern",
    "cross_k": "cross_attn.hook_k",
    "cross_v": "cross_attn.hook_v",
}
BOTH = ("denoising", "noising")
CHANGES = (
    ("the key by the red what is", "the what by the blue key is"),
    ("the four key is", "the four what is"),
)
UNEQUAL = ("the red key by the door is", "the seven blue key by the door is")


def begun(case: str) -> Seq2SeqModel:
    """A tiny model; that of BART's decoder begins with two tokens."""
    model = tiny_seq2seq(case)
    model.prefix = (*model.prefix, 5) if case.startswith("bart") else model.prefix
    return model


def pairs_for(model: Seq2SeqModel, changes=CHANGES) -> Task:
    pairs = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(changes)]
    assert None not in pairs
    return word_task(items=tuple(pairs))


def prompts_of(model: Seq2SeqModel, task: Task, item: str) -> PatchingPrompts:
    (found,) = (one for one in task.items if one.id == item)
    prompts = patching_prompts(task, found, model.tokenizer, apart=True)
    assert prompts is not None
    return prompts


@torch.inference_mode()
def by_hand(model: Seq2SeqModel, prompts: PatchingPrompts, row) -> torch.Tensor:
    """Log-probabilities after one prompt with one cell taken from the other, by one hook."""
    runs = prompts.corrupted, prompts.clean
    tokens, source = runs if row.direction == "denoising" else runs[::-1]
    layer = int(row.layer)
    name = model.hook_name(layer, HOOKS[row.site])
    said = torch.tensor([model.prefix])
    _, cache = model.run_with_cache(torch.tensor([source]), said)
    in_prompt = layer < model.cfg.n_encoder_layers or row.site in ("cross_k", "cross_v")
    whole = range(len(tokens) if in_prompt else len(model.prefix))
    places = [(p, p) for p in whole] if row.pos_label == "all" else [(row.pos, row.source_pos)]

    def put(value, hook):
        changed = value.clone()
        for pos, there in places:
            if row.site.endswith("pattern"):
                changed[:, int(row.head), pos] = cache[name][:, int(row.head), there]
            elif row.site.endswith("z"):
                changed[:, pos, int(row.head)] = cache[name][:, there, int(row.head)]
            else:
                changed[:, pos] = cache[name][:, there]
        return changed

    logits = model.run_with_hooks(torch.tensor([tokens]), said, fwd_hooks=[(name, put)])
    return logits[0, -1].double().log_softmax(-1)


@torch.inference_mode()
def intact(model: Seq2SeqModel, tokens: tuple[int, ...]) -> torch.Tensor:
    return model(torch.tensor([tokens]))[0, -1].double().log_softmax(-1)


def check(model: Seq2SeqModel, task: Task, table, n_rows: int) -> None:
    """Some rows of each site against hooks written by hand."""
    for site, mine in table.groupby("site"):
        for row in mine.sample(min(len(mine), n_rows), random_state=0).itertuples():
            prompts = prompts_of(model, task, row.item)
            expected = by_hand(model, prompts, row)
            right, wrong = (float(expected[t]) for t in (prompts.clean_answer,
                                                         prompts.corrupted_answer))  # fmt: skip
            assert row.patched_diff == pytest.approx(right - wrong, abs=1e-4), (site, row)
            assert row.patched_logprob == pytest.approx(right, abs=1e-4)
            if row.patched_kl == row.patched_kl:
                ends = [intact(model, tokens) for tokens in (prompts.clean, prompts.corrupted)]
                source, other = ends if row.direction == "denoising" else ends[::-1]
                away = [float((source.exp() * (source - x)).sum()) for x in (other, expected)]
                found = row.unpatched_kl, row.patched_kl
                assert found == pytest.approx(away, abs=1e-5)


@pytest.mark.parametrize(
    ("case", "kl"),
    [
        ("t5", True),
        pytest.param("bart", True, marks=pytest.mark.long),
        pytest.param("t5", False, marks=pytest.mark.long),
        pytest.param("bart-scaled", False, marks=pytest.mark.long),
    ],
)
def test_every_site_equals_hooks_written_by_hand(case: str, kl: bool):
    model = begun(case)
    task = pairs_for(model)
    labels = ("before", "middle changed", "last changed", "last", "start", "answer", "all")
    labels = tuple(label for label in labels if label != "start" or len(model.prefix) > 1)
    table = lw.patch_activations(
        model, task, sites=PATCH_SITES, directions=BOTH, positions=labels, kl=kl,
        pairs=1, progress=False,
    ).patching  # fmt: skip
    assert set(table["site"]) == set(PATCH_SITES)
    assert set(table["pos_label"]) == set(labels)
    check(model, task, table, 8)


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_there_is_a_row_for_every_site_layer_head_and_position(case: str):
    model = begun(case)
    task, cfg, n_begins = pairs_for(model, CHANGES[1:]), model.cfg, len(model.prefix)
    found = lw.patch_activations(model, task, sites=PATCH_SITES, progress=False).patching
    cross, memory = PATCH_SITES[7:11], PATCH_SITES[11:]
    prompt = [label for label in found.query("site == 'resid_pre' and layer == 0")["pos_label"]]
    assert set(prompt) == {"before", "last changed", "next", "further", "last"}
    begins = ["start"] * (n_begins - 1) + ["answer"]
    for site in PATCH_SITES:
        for layer in range(cfg.n_layers):
            decoding = layer >= cfg.n_encoder_layers
            expected = begins if decoding else prompt
            if site in HEAD_SITES:
                expected = ["last changed", "last", "all"]
                expected = ["answer", *["all"] * (n_begins > 1)] if decoding else expected
            if site in memory and decoding:
                expected = prompt
            nothing = site in (*cross, *memory) and not decoding
            nothing |= site == "pattern" and decoding and n_begins == 1
            n_heads = cfg.heads_of(layer) if site in HEAD_SITES else 1
            mine = found.loc[(found["site"] == site) & (found["layer"] == layer)]
            wanted = [] if nothing else sorted(expected * n_heads)
            assert sorted(mine["pos_label"]) == wanted, (site, layer)
    assert (found["pos"].dropna() == found["source_pos"].dropna()).all()


def test_pairs_of_unequal_length_are_aligned_in_the_encoder_only():
    model = begun("bart")
    task = pairs_for(model, [UNEQUAL])
    prompts = prompts_of(model, task, "pair/0")
    assert len(prompts.clean) < len(prompts.corrupted)
    sites = [site for site in PATCH_SITES if not site.endswith("pattern")]
    found = lw.patch_activations(
        model, task, sites=sites, directions=BOTH, align=True, progress=False
    ).patching
    check(model, task, found, 10)
    at_end = found.query("pos_label == 'last' and direction == 'noising'")
    ends = {(len(prompts.clean) - 1, len(prompts.corrupted) - 1)}
    assert set(zip(at_end["pos"], at_end["source_pos"], strict=True)) == ends
    with pytest.raises(UserError, match="of unequal length have different keys"):
        lw.patch_activations(model, task, sites="cross_pattern", align=True, progress=False)


def test_the_prompts_are_those_of_the_continuation_protocol():
    model, task = begun("t5"), load_task("kv-words", limit=5)
    for item in task.items:
        pair = patching_prompts(task, item, model.tokenizer, apart=True)
        asked = build_requests(task, item, "continuation", model.tokenizer, apart=True)
        (gold,) = [one.request for one in asked if one.gold]
        assert pair is not None
        assert isinstance(gold, LogLikelihood)
        assert (pair.clean, pair.clean_answer) == (gold.context, gold.continuation[0])


planted = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.generate))


@planted
@given(seq2seq_layouts(), st.integers(0, 1000), st.sampled_from(CAPABILITIES))
def test_the_planted_copy_is_found_in_the_values_at_the_prompts_end(layout, seed, capability):
    model, truth = small_seq2seq(layout, seed), PlantedSeq2Seq(layout, capability)
    summary = lw.patch_activations(
        model, small_task(capability, 6), sites=("cross_k", "cross_v"), directions=BOTH,
        positions=("before", "last changed", "last", "all"), pairs=2, progress=False,
    ).summary()  # fmt: skip
    assert set(summary["layer"]) == set(range(layout.n_encoder_layers, layout.n_layers))
    for row in summary.itertuples():
        there = truth.recovers_by_memory(row.site[-1], int(row.layer))
        expected = there if row.pos_label in ("last", "all") else 0.0
        assert row.recovered == pytest.approx(expected, abs=1e-3), row


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_capability_emerges_where_the_decoder_copies_it(capability):
    """On one axis of computation; the report says where the encoder moves it before that."""
    layout = WiredSeq2SeqLayout()
    truth, task = PlantedSeq2Seq(layout, capability), small_task(capability, 8)
    result = lw.patch_activations(small_seq2seq(layout), task, pairs=6, progress=False)
    found = emergence([result], n_resamples=200)
    assert found.left_out.empty
    depth = found.emergence.query("measure == 'half-effect depth'").set_index("axis")
    assert set(depth.index) == {"computation", "decoder"}  # no such position in the encoder
    assert depth["layer"].tolist() == pytest.approx([layout.copy.layer] * 2)
    within = layout.copy.layer - layout.n_encoder_layers
    assert depth["estimate"]["decoder"] == pytest.approx(within / (layout.n_decoder_layers - 1))
    moved = layout.named(truth.moved_at)
    expected = f"moves from the changed word to the prompt's last token in layer {moved} "
    copied = layout.named(layout.copy.layer)
    taken_up = f"of what decides the answer reaches the decoder's answer in layer {copied} "
    with naming_layers_of(result.facts.model):
        (over,), (up,) = hand_overs(tables_of_run([result])), take_ups(tables_of_run([result]))
    assert expected in over.short
    assert taken_up in up.short
    assert f"The layer lies in [{copied}, {copied}]" in up.full
    assert "100 [100, 100] % of the logit difference" in up.full
    assert {over.full, up.full} <= {one.full for one in findings([result])}


def test_without_a_rise_in_the_decoder_nothing_is_said_of_it():
    layout = WiredSeq2SeqLayout()
    task = small_task("retrieval", 8)
    result = lw.patch_activations(
        small_seq2seq(layout), task, positions=("last", "answer"), pairs=4, progress=False
    )
    table = result.patching
    late = table["layer"] > layout.copy.layer
    for kept in (table.loc[~late], table.loc[late]):
        part = replace(result, patching=kept.reset_index(drop=True))
        assert hand_overs(tables_of_run([part])) == take_ups(tables_of_run([part])) == []


@pytest.mark.parametrize(
    ("case", "options", "sentence"),
    [
        ("t5", {"positions": "start"}, "Unknown position 'start'"),
        (
            "t5",
            {"sites": ["resid_pre", "cross_attn_out"], "positions": ["last", "before"]},
            "Site cross_attn_out is not at position 'last', 'before': expected one of answer, all; "
            "name one of these, or leave the site out.",
        ),
        ("bart", {"sites": "cross_v", "positions": ["answer"]}, "Site cross_v is not at position"),
        ("t5", {"sites": "pattern", "positions": "answer"}, "expected one of before, first chan"),
    ],
)
def test_what_cannot_be_patched_is_told_before_work_begins(case, options, sentence, tmp_path):
    model = begun(case)
    with pytest.raises(UserError) as told:
        lw.patch_activations(
            model, pairs_for(model), out=tmp_path / "run", progress=False, **options
        )
    assert sentence in str(told.value)
    assert not (tmp_path / "run").exists()


def test_the_layout_of_a_decoder_only_model_is_one_stack():
    layout = PatchingLayout.of(tiny_model("llama"))
    assert layout.sites() == PATCH_SITES[:7]
    assert layout.labels(["z"]) == (
        "first changed", "middle changed", "last changed", "next", "further", "last", "all",
    )  # fmt: skip
    two = replace(layout, n_encoder=1, n_begins=2)
    assert two.labels(["cross_k"])[0] == "before"
    assert two.labels(["cross_z"]) == ("start", "answer", "all")
