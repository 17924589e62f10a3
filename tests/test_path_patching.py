"""Direct paths against runs in which everything else is frozen by hand, in one stack and in two."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.analyses.path_patching.api import _receiver_work, patch_paths, refuse_post_norms
from layerwise.analyses.path_patching.paths import (
    EMBEDDING,
    Receiver,
    Sender,
    model_receivers,
    model_senders,
    parse_receiver,
    receiver_logprobs,
    sender_outputs,
)
from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model, hook_name
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.blocks import HookedBlock
from layerwise.tasks.pairs import PatchingPrompts
from tests import analysis
from tests.cases import cases
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model
from tests.sweep.models import random_model
from tests.sweep.seq2seq.test_engine import FAMILIES
from tests.test_patching import CHANGES, item_prompts, pair_task

# The slow reference: plain runs in which all but the path is frozen by hand.
FROZEN = ("attn.hook_z", "hook_mlp_out")
BEGINS = ("blocks.0.hook_resid_pre", "encoder.hook_embed", "decoder.hook_embed")


def batch(model: Model, tokens: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    rows = (tokens, model.prefix) if isinstance(model, Seq2SeqModel) else (tokens,)
    return tuple(torch.tensor([row]) for row in rows)


@torch.inference_mode()
def run_with_cache(model: Model, tokens: tuple[int, ...]) -> Any:
    return model.run_with_cache(*batch(model, tokens))[1]


@torch.inference_mode()
def intact(model: Model, tokens: tuple[int, ...]) -> torch.Tensor:
    return model(*batch(model, tokens))[0, -1].double().log_softmax(-1)


def of_sender(model: Model, sender: Sender) -> str:
    """The hook that holds what a sender writes, of a head before its projection."""
    if sender.site == EMBEDDING:
        return f"{sender.stack}.hook_embed" if sender.stack else BEGINS[0]
    return hook_name(model, sender.layer, sender.site)


def of_receiver(model: Model, receiver: Receiver) -> str:
    assert receiver.layer is not None
    names = {"mlp": "hook_mlp_out"}
    names |= {letter: f"attn.hook_{letter}" for letter in "qkv"}
    names |= {f"cross_{letter}": f"cross_attn.hook_{letter}" for letter in "qkv"}
    if isinstance(model, Seq2SeqModel):
        return model.hook_name(receiver.layer, names[receiver.reads])
    return f"blocks.{receiver.layer}.{names[receiver.reads]}"


def frozen_hooks(
    model: Model, tokens: tuple[int, ...], source: tuple[int, ...], sender: Sender
) -> list[Any]:
    """Every embedding, head and MLP as in the first run, but the sender as in the second."""
    mine, theirs = run_with_cache(model, tokens), run_with_cache(model, source)

    def fix(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        value = mine[hook.name].clone()
        if hook.name != of_sender(model, sender):
            return value
        if sender.head is None:
            return theirs[hook.name]
        value[:, :, sender.head] = theirs[hook.name][:, :, sender.head]
        return value

    return [(name, fix) for name in mine if name in BEGINS or name.endswith(FROZEN)]


@torch.inference_mode()
def freeze_and_patch(
    model: Model,
    tokens: tuple[int, ...],
    source: tuple[int, ...],
    sender: Sender,
    receiver: Receiver,
) -> torch.Tensor:
    """Wang et al.'s three runs: record, freeze all but the path, let the receiver's change act."""
    hooks = frozen_hooks(model, tokens, source, sender)
    if receiver.layer is None:
        logits = model.run_with_hooks(*batch(model, tokens), fwd_hooks=hooks)
        return logits[0, -1].double().log_softmax(-1)
    name, seen = of_receiver(model, receiver), {}
    # the receiver's own output is not frozen while it is recorded
    free = [hook for hook in hooks if hook[0] != name]
    record = (name, lambda x, hook: seen.update(x=x.clone()))
    model.run_with_hooks(*batch(model, tokens), fwd_hooks=[*free, record])

    def put(x: torch.Tensor, hook: Any) -> torch.Tensor:
        if receiver.head is None:
            return seen["x"]
        x = x.clone()
        x[:, :, receiver.head] = seen["x"][:, :, receiver.head]
        return x

    logits = model.run_with_hooks(*batch(model, tokens), fwd_hooks=[(name, put)])
    return logits[0, -1].double().log_softmax(-1)


def assert_logprobs_match(row: Any, said: torch.Tensor, prompts: PatchingPrompts) -> None:
    """A row of ``path_patching.parquet`` has the log-probabilities that the reference gave."""
    diff = float(said[prompts.clean_answer] - said[prompts.corrupted_answer])
    assert row.patched_diff == pytest.approx(diff, abs=1e-4)
    base, aim = (row.clean_diff, row.corrupted_diff)[:: 1 if row.direction == "noising" else -1]
    assert row.recovered == pytest.approx((diff - base) / (aim - base), abs=1e-3)


CLEAN, OTHER = (5, 7, 3, 9, 12, 10), (5, 8, 3, 9, 20, 10)
KINDS = ("llama-gqa", "gpt2", "neox", "attention only", "qk-norm", "soft-caps")
RECEIVERS = ("logits", "q:2.1", "k:2.0", "v:3.0", "mlp:2")
RECEIVERS_OF_TWO = (
    "logits", "mlp:decoder.1", "cross_q:decoder.1.1", "cross_v:decoder.1.0", "cross_k:decoder.0.1",
    "q:encoder.1.2", "k:decoder.1.1", "v:decoder.1.0",
)  # fmt: skip
# By day each receiver of decoders by turns in two kinds of blocks; norms behind with each receiver,
# and norms before where the encoder's last norm is read.
BY_DAY = [
    *((kind, RECEIVERS[n % 5]) for i, kind in enumerate(KINDS) for n in (2 * i, 2 * i + 1)),
    *product(("bart",), RECEIVERS_OF_TWO),
    *(("t5", name) for name in RECEIVERS_OF_TWO if "cross" in name),
]  # fmt: skip
CASES = [
    pytest.param(*case, marks=[] if case in BY_DAY else pytest.mark.long)
    for case in (*product(KINDS, RECEIVERS), *product(("bart", "t5"), RECEIVERS_OF_TWO))
    if case != ("attention only", "mlp:2")
]


def case_model(case: str) -> Seq2SeqModel:
    """A tiny model whose decoder begins with two tokens, the second of which can look back."""
    model = tiny_seq2seq(case)
    model.prefix = (*model.prefix, 7)
    return model


def sender_flows(model: Model, senders: list[Sender]) -> list[torch.Tensor]:
    runs = (sender_outputs(model, tokens, senders) for tokens in (OTHER, CLEAN))
    return [theirs - mine for theirs, mine in zip(*runs, strict=True)]


@pytest.mark.long(
    but=[
        "llama-gqa-q:2.1",
        "gpt2-v:3.0",
        "attention only-k:2.0",
        "qk-norm-mlp:2",
        "soft-caps-logits",
        "bart-logits",
        "bart-mlp:decoder.1",
        "bart-q:encoder.1.2",
        "t5-cross_q:decoder.1.1",
        "t5-cross_v:decoder.1.0",
        "t5-cross_k:decoder.0.1",
    ]
)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_paths_equal_runs_with_all_else_frozen(case: str, name: str):
    model = case_model(case) if case in FAMILIES else random_model(case)
    receiver = parse_receiver(name, model)
    parallel = getattr(model.cfg, "parallel_attn_mlp", False)
    heard = [sender for sender in model_senders(model) if receiver.hears(sender, parallel)]
    flows = torch.stack(sender_flows(model, heard))
    found = receiver_logprobs(model, CLEAN, receiver, heard, flows)
    for i in range(0, len(heard), 3):
        expected = freeze_and_patch(model, CLEAN, OTHER, heard[i], receiver)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)
    nothing = receiver_logprobs(model, CLEAN, receiver, heard, torch.zeros_like(flows))
    same = intact(model, CLEAN).expand_as(nothing)
    torch.testing.assert_close(nothing, same, atol=1e-4, rtol=0)
    assert ((found - nothing).abs().amax(dim=-1) > 1e-3).any()


@pytest.mark.long(but=["t5", "bart", "llama-gqa", "neox"])
@pytest.mark.parametrize("case", [*FAMILIES, "llama-gqa", "neox"])
def test_who_is_not_heard_has_no_effect(case: str):
    """Any sender and receiver; in the slow runs, too, only who is heard has any."""
    model = case_model(case) if case in FAMILIES else random_model(case)
    senders, original = model_senders(model), intact(model, CLEAN)
    parallel = getattr(model.cfg, "parallel_attn_mlp", False)

    @cases(parts=10)
    @given(st.sampled_from(list(model_receivers(model).values())), st.sampled_from(senders))
    def agree(receiver: Receiver, sender: Sender) -> None:
        expected = freeze_and_patch(model, CLEAN, OTHER, sender, receiver)
        if not receiver.hears(sender, parallel):
            torch.testing.assert_close(expected, original, atol=1e-4, rtol=0)
            return
        (flow,) = sender_flows(model, [sender])
        found = receiver_logprobs(model, CLEAN, receiver, [sender], flow[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    agree()
    for name, receiver in model_receivers(model).items():
        assert parse_receiver(name, model) == receiver
        heard = {s.stack for s in senders if receiver.hears(s, parallel)}
        in_encoder = "encoder" in name or name.startswith(("cross_k", "cross_v"))
        assert heard == ({""} if case not in FAMILIES else {"encoder" if in_encoder else "decoder"})
    names = {sender.name for sender in senders}
    there = {"decoder embedding", "cross-attention head decoder.0.1", "mlp encoder.0"}
    assert names >= (there if case in FAMILIES else {"embedding", "head 1.0", "mlp 2"})


@pytest.mark.long(but=["bart-receivers2-denoising"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(
    ("case", "receivers"),
    [("llama", ("logits", "q:1.2")), ("t5", ("logits", "cross_v:decoder.1.1")),
     ("bart", ("logits", "cross_v:decoder.1.1"))],
)  # fmt: skip
def test_a_row_for_every_pair_receiver_and_sender(case: str, receivers, direction: str):
    model = tiny_model("llama", seed=1) if case == "llama" else case_model(case)
    task = pair_task(model, CHANGES[1::2])
    result = patch_paths(model, task, receivers, direction=direction, progress=False)
    table = result.path_patching
    assert list(table.columns) == analysis.documented_columns("path_patching.parquet")
    if isinstance(model, Seq2SeqModel):
        n_senders = [1 + n * (heads + 1) for n, heads in (
            (model.cfg.n_decoder_layers, 8), (model.cfg.n_encoder_layers, 4))]  # fmt: skip
    else:
        n_senders = [16, 6]
    counts = dict(zip(receivers, n_senders, strict=True))
    assert table.query("item == 'pair/0'")["receiver"].value_counts().to_dict() == counts
    prompts = item_prompts(model, task, "pair/0")
    runs = (prompts.clean, prompts.corrupted)[:: 1 if direction == "noising" else -1]
    senders = {sender.name: sender for sender in model_senders(model)}
    for row in table.query("item == 'pair/0'").sample(10, random_state=0).itertuples():
        sender = senders[row.sender]
        assert (row.site, row.layer) == (sender.site, sender.layer)
        assert row.head is pd.NA if sender.head is None else row.head == sender.head
        receiver = parse_receiver(row.receiver, model)
        said = freeze_and_patch(model, *runs, sender, receiver)
        assert_logprobs_match(row, said, prompts)
    effects = result.effects()
    assert len(effects) == sum(n_senders)
    assert ("cross-attention head" in result._repr_html_()) == (case != "llama")


@pytest.mark.parametrize(
    "name", ["logits", "mlp:encoder.1", "cross_v:decoder.0.2", "q:decoder.1.0"]
)
def test_the_work_that_is_told_is_what_is_done(monkeypatch, name: str):
    """Senders into a receiver in the decoder run the decoder alone."""
    model, run, counts = case_model("t5"), HookedBlock.forward, []

    def counted(block, resid, *rest):
        counts.append((resid.shape[0], resid.shape[0] * resid.shape[1]))
        return run(block, resid, *rest)

    monkeypatch.setattr(HookedBlock, "forward", counted)
    receiver = parse_receiver(name, model)
    heard = [sender for sender in model_senders(model) if receiver.hears(sender, False)]
    length = 2 if receiver.stack == "decoder" else len(CLEAN)
    receiver_logprobs(
        model, CLEAN, receiver, heard, torch.zeros(len(heard), length, model.cfg.d_model)
    )
    told = _receiver_work(model, CLEAN, receiver, len(heard))
    assert tuple(map(sum, zip(*counts, strict=True))) == (told.block_passes, told.token_passes)


def test_receivers_that_the_model_does_not_have():
    model = tiny_seq2seq("t5")
    for text in ("q:5.1", "z:encoder.1.1", "mlp:decoder.2", "k:encoder.1.4", "cross_q:encoder.1.0"):
        with pytest.raises(UserError) as told:
            parse_receiver(text, model)
        assert str(told.value) == (
            f"Cannot read the receiver {text!r}: expected logits, q:encoder.0.0 to q:decoder.1.3, "
            "k:encoder.0.0 to k:decoder.1.3, v:encoder.0.0 to v:decoder.1.3, mlp:encoder.0 to "
            "mlp:decoder.1, cross_q:decoder.0.0 to cross_q:decoder.1.3, cross_k:decoder.0.0 to "
            "cross_k:decoder.1.3, cross_v:decoder.0.0 to cross_v:decoder.1.3; choose one of these."
        )
    with pytest.raises(UserError, match=r"k:0\.0 to k:2\.1, "):
        parse_receiver("k:1.2", tiny_model("llama"))


def test_models_whose_heads_have_no_term_of_their_own_are_refused():
    model = random_model("llama-gqa")
    refuse_post_norms(model.cfg)
    changed = type("Config", (), {**vars(model.cfg), "use_normalization_before_and_after": True})
    with pytest.raises(UserError, match="path patching cannot be exact"):
        refuse_post_norms(changed)
