"""The slow reference of path patching: plain runs in which all but the path is frozen by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layerwise.analyses.path_patching.components import EMBEDDING, Receiver, Sender
from layerwise.models.instance.kinds import Model, hook_name
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks.pairs import PatchingPrompts

FROZEN = ("attn.hook_z", "hook_mlp_out")
BEGINS = ("blocks.0.hook_resid_pre", "encoder.hook_embed", "decoder.hook_embed")


def batch(model: Model, tokens: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    rows = (tokens, model.prefix) if isinstance(model, Seq2SeqModel) else (tokens,)
    return tuple(torch.tensor([row]) for row in rows)


@torch.inference_mode()
def cached(model: Model, tokens: tuple[int, ...]) -> Any:
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
    mine, theirs = cached(model, tokens), cached(model, source)

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
def by_freezing(
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


def assert_is_what_was_said(row: Any, said: torch.Tensor, prompts: PatchingPrompts) -> None:
    """A row of ``path_patching.parquet`` has the numbers of a run of the reference.

    Args:
        row: of the table.
        said: log-probabilities that the reference gave.
        prompts: the pair.
    """
    diff = float(said[prompts.clean_answer] - said[prompts.corrupted_answer])
    assert row.patched_diff == pytest.approx(diff, abs=1e-4)
    base, aim = (row.clean_diff, row.corrupted_diff)[:: 1 if row.direction == "noising" else -1]
    assert row.recovered == pytest.approx((diff - base) / (aim - base), abs=1e-3)
