"""Direct paths in encoder-decoders: against frozen runs, between stacks, and where they add up."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import layerwise as lw
from layerwise.analyses.path_patching.api import _work_of
from layerwise.analyses.path_patching.components import Receiver, Sender, parse_receiver, senders_of
from layerwise.analyses.path_patching.paths import received, written
from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.blocks import HookedBlock
from layerwise.tasks import patching_prompts
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.cases import cases
from tests.frozen_paths import assert_is_what_was_said, by_freezing, cached, intact
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.planted import small_task
from tests.planted_seq2seq import small_seq2seq
from tests.sweep.seq2seq.test_engine import FAMILIES
from tests.test_ground_truth import SEQ2SEQ_LAYOUT as LAYOUT

CLEAN, OTHER = (5, 6, 7, 8, 9, 10), (5, 6, 17, 8, 30, 10)
LONG = pytest.mark.long
PRE_NORM = ("t5", "flan-t5", "mbart", "pegasus")


def begun(case: str) -> Seq2SeqModel:
    """A tiny model whose decoder begins with two tokens, the second of which can look back."""
    model = tiny_seq2seq(case)
    model.prefix = (*model.prefix, 7)
    return model


def receivers_of(model: Seq2SeqModel) -> list[str]:
    cfg, found = model.cfg, ["logits"]
    for layer in range(cfg.n_layers):
        named = layer_name(layer, cfg.n_encoder_layers)
        found.append(f"mlp:{named}")
        reads = ("q", "k", "v", "cross_q", "cross_k", "cross_v")
        for what in reads if layer >= cfg.n_encoder_layers else reads[:3]:
            found += [f"{what}:{named}.{head}" for head in range(cfg.heads_of(layer))]
    return found


def flows_of(model: Seq2SeqModel, senders: list[Sender]) -> list[torch.Tensor]:
    runs = (written(model, tokens, senders) for tokens in (OTHER, CLEAN))
    return [theirs - mine for theirs, mine in zip(*runs, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_equal_runs_with_all_else_frozen(family: str):
    """Who is not heard has no effect in the slow runs either."""
    model = begun(family)
    senders, original = senders_of(model), intact(model, CLEAN)

    @cases(parts=10)
    @given(st.sampled_from(receivers_of(model)).map(lambda name: parse_receiver(name, model)),
           st.sampled_from(senders))  # fmt: skip
    def agree(receiver: Receiver, sender: Sender) -> None:
        expected = by_freezing(model, CLEAN, OTHER, sender, receiver)
        if not receiver.hears(sender, False):
            torch.testing.assert_close(expected, original, atol=1e-4, rtol=0)
            return
        (flow,) = flows_of(model, [sender])
        found = received(model, CLEAN, receiver, [sender], flow[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    agree()


# Norms behind and before, each receiver; by day the latter where the encoder's last norm is read.
@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, marks=[] if family == "bart" or "cross" in name else [LONG])
        for family in ("bart", "t5")
        for name in ("logits", "mlp:decoder.1", "cross_q:decoder.1.1", "cross_v:decoder.1.0",
                     "cross_k:decoder.0.1", "q:encoder.1.2", "k:decoder.1.1", "v:decoder.1.0")
    ],
)  # fmt: skip
def test_all_that_a_receiver_hears_at_once(family: str, name: str):
    model = begun(family)
    receiver = parse_receiver(name, model)
    heard = [sender for sender in senders_of(model) if receiver.hears(sender, False)]
    flows = torch.stack(flows_of(model, heard))
    found = received(model, CLEAN, receiver, heard, flows)
    for i in range(0, len(heard), 3):
        expected = by_freezing(model, CLEAN, OTHER, heard[i], receiver)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)
    nothing = received(model, CLEAN, receiver, heard, torch.zeros_like(flows))
    same = intact(model, CLEAN).expand_as(nothing)
    torch.testing.assert_close(nothing, same, atol=1e-4, rtol=0)
    moved = (found - nothing).abs().amax(dim=-1) > 1e-3
    assert moved.any()


def test_only_cross_attention_hears_the_encoder_in_the_decoder():
    model = begun("t5")
    for name in receivers_of(model):
        receiver = parse_receiver(name, model)
        assert receiver.name == name
        heard = {s.stack for s in senders_of(model) if receiver.hears(s, False)}
        in_encoder = "encoder" in name or name.startswith(("cross_k", "cross_v"))
        assert heard == {"encoder" if in_encoder else "decoder"}
    heads = ["cross-attention head decoder.0.1", "mlp decoder.0", "head decoder.1.0"]
    senders = {sender.name: sender for sender in senders_of(model)}
    hears = [
        [parse_receiver(name, model).hears(senders[head], False) for head in heads]
        for name in ("cross_q:decoder.0.0", "mlp:decoder.0", "q:decoder.1.0", "cross_q:decoder.1.0")
    ]
    assert hears == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    memory = parse_receiver("cross_v:decoder.0.0", model)
    assert all(memory.hears(s, False) for s in senders.values() if s.stack == "encoder")


@pytest.mark.parametrize("family", PRE_NORM)
def test_without_norms_between_all_that_is_written_adds_up_to_the_streams(family: str):
    model = begun(family)
    senders = senders_of(model)
    flows = flows_of(model, senders)
    for stack, last in (
        ("encoder", model.cfg.n_encoder_layers - 1),
        ("decoder", model.cfg.n_layers - 1),
    ):
        name = model.hook_name(last, "hook_resid_post")
        ends = [cached(model, tokens)[name][0] for tokens in (OTHER, CLEAN)]
        mine = [flow for s, flow in zip(senders, flows, strict=True) if s.stack == stack]
        torch.testing.assert_close(
            torch.stack(mine).sum(0), ends[0] - ends[1], atol=1e-4, rtol=1e-4
        )


def test_without_norms_paths_into_the_logits_add_up_to_the_whole():
    model, task = small_seq2seq(LAYOUT), small_task("reasoning")
    found = lw.patch_paths(model, task, pairs=3, progress=False).path_patching
    assert set(found["sender"].str.contains("encoder")) == {False}
    # rounding of float32 logits that are 24 nats apart, once for each sender
    assert found.groupby("item")["recovered"].sum().to_numpy() == pytest.approx(1.0, abs=1e-3)


CHANGES = (
    ("the key by the red what is", "the what by the blue key is"),
    ("the four key is", "the four what is"),
)


@pytest.mark.parametrize("case", ["t5", "bart"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_a_row_for_every_pair_receiver_and_sender(case: str, direction: str):
    model = begun(case)
    items = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(CHANGES)]
    task = word_task(items=tuple(items))
    receivers = ("logits", "cross_v:decoder.1.1")
    result = lw.patch_paths(model, task, receivers, direction=direction, progress=False)
    table, cfg = result.path_patching, model.cfg
    assert list(table.columns) == analysis.documented_columns("path_patching.parquet")
    n_encoder, n_decoder = (1 + n * (heads + 1) for n, heads in (
        (cfg.n_encoder_layers, 4), (cfg.n_decoder_layers, 8)))  # fmt: skip
    counts = {"logits": n_decoder, "cross_v:decoder.1.1": n_encoder}
    assert table.query("item == 'pair/0'")["receiver"].value_counts().to_dict() == counts
    prompts = patching_prompts(task, items[0], model.tokenizer, apart=True)
    assert prompts is not None
    runs = (prompts.clean, prompts.corrupted)[:: 1 if direction == "noising" else -1]
    senders = {sender.name: sender for sender in senders_of(model)}
    for row in table.query("item == 'pair/0'").sample(12, random_state=0).itertuples():
        sender = senders[row.sender]
        assert (row.site, row.layer) == (sender.site, sender.layer)
        assert row.head is pd.NA if sender.head is None else row.head == sender.head
        receiver = parse_receiver(row.receiver, model)
        said = by_freezing(model, *runs, sender, receiver)
        assert_is_what_was_said(row, said, prompts)
    effects = result.effects()
    assert list(effects.columns) == analysis.documented_columns("path_effects.parquet")
    assert len(effects) == n_encoder + n_decoder
    assert "cross-attention head decoder" in result._repr_html_()


@pytest.mark.parametrize(
    "name", ["logits", "mlp:encoder.1", "cross_v:decoder.0.2", "q:decoder.1.0"]
)
def test_the_work_that_is_told_is_what_is_done(monkeypatch, name: str):
    """Senders into a receiver in the decoder run the decoder alone."""
    model, run, counts = begun("t5"), HookedBlock.forward, []

    def counted(block, resid, *rest):
        counts.append((resid.shape[0], resid.shape[0] * resid.shape[1]))
        return run(block, resid, *rest)

    monkeypatch.setattr(HookedBlock, "forward", counted)
    receiver = parse_receiver(name, model)
    heard = [sender for sender in senders_of(model) if receiver.hears(sender, False)]
    length = 2 if receiver.stack == "decoder" else len(CLEAN)
    received(model, CLEAN, receiver, heard, torch.zeros(len(heard), length, model.cfg.d_model))
    told = _work_of(model, CLEAN, receiver, len(heard))
    assert tuple(map(sum, zip(*counts, strict=True))) == (told.block_passes, told.token_passes)


@pytest.mark.parametrize(
    ("receiver", "sentence"),
    [
        ("q:5.1", "Cannot read the receiver 'q:5.1': expected logits, mlp:LAYER such as mlp:enc"),
        ("z:encoder.1.1", "q, k or v of a head such as q:decoder.3.1, with cross_ before it"),
        ("q:encoder.9.0", "'q:encoder.9.0' is not in the model, which has layers encoder.0 to enc"
         "oder.2, decoder.0 to decoder.1; choose one of these."),
        ("mlp:decoder.2", "which has layers encoder.0 to encoder.2, decoder.0 to decoder.1"),
        ("k:encoder.1.4", "and heads 0 to 3 for it"),
        ("cross_q:encoder.1.0", "which has cross-attention in layers decoder.0 to decoder.1;"),
        ("cross_v:decoder.1.7", "in layers decoder.0 to decoder.1 and heads 0 to 3 for it"),
    ],
)  # fmt: skip
def test_receivers_that_the_model_does_not_have(receiver: str, sentence: str):
    with pytest.raises(UserError) as told:
        parse_receiver(receiver, tiny_seq2seq("t5"))
    assert sentence in str(told.value)
