"""Layer skipping with hooks, as people write it by hand with TransformerLens today.

The model is TransformerLens's own, or with releases that have none a ``DecoderModel``.

Uses nothing of the engine, so that it can be timed and checked against it; what is asked and how
it is reported is in ``sweep_vs_hooks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformer_lens import TransformerLensKeyValueCache

from layerwise.models.decoder import DecoderModel
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import Generate, Generated, LogLikelihood, Scored
from layerwise.sweep.requests import Stopper

Hooks = list[tuple[str | Callable[..., Any], Callable[..., Any]]]


def skip_hooks(layer: int | None) -> Hooks:
    """Hooks under which ``layer`` hands on what came in; none for the intact model."""
    if layer is None:
        return []
    kept: dict[str, torch.Tensor] = {}

    def remember(resid: torch.Tensor, hook: Any) -> None:
        kept["resid"] = resid

    def recall(resid: torch.Tensor, hook: Any) -> torch.Tensor:
        return kept["resid"]

    block = f"blocks.{layer}"
    return [(f"{block}.hook_resid_pre", remember), (f"{block}.hook_resid_post", recall)]


@torch.inference_mode()
def score_batched(
    model: DecoderOnly, layers: Sequence[int | None], groups: Sequence[list[LogLikelihood]]
) -> list[list[Scored]]:
    """One forward per skipped layer and item, the item's options as one padded batch."""
    return score_hooked(model, [skip_hooks(layer) for layer in layers], groups)


def head_hooks(layer: int, head: int) -> Hooks:
    """Hooks under which a head puts out zeros."""

    def without(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, head] = 0
        return z

    return [(f"blocks.{layer}.attn.hook_z", without)]


@torch.inference_mode()
def score_hooked(
    model: DecoderOnly, changes: Sequence[Hooks], groups: Sequence[list[LogLikelihood]]
) -> list[list[Scored]]:
    """One forward per change and item, the item's options as one padded batch."""
    outcomes: list[list[Scored]] = []
    for hooks in changes:
        with model.hooks(fwd_hooks=hooks):
            outcomes.append([scored for group in groups for scored in _score(model, group)])
    return outcomes


def _score(model: DecoderOnly, group: list[LogLikelihood]) -> list[Scored]:
    rows = [torch.tensor(one.context + one.continuation[:-1]) for one in group]
    # Padding on the right changes nothing before it in a causal model.
    logits = model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    return [_score_logits(row, one) for row, one in zip(logits, group, strict=True)]


def _score_logits(logits: torch.Tensor, asked: LogLikelihood) -> Scored:
    begin, targets = len(asked.context) - 1, torch.tensor(asked.continuation)
    read = logits[begin : begin + len(targets)]
    logprobs = read.log_softmax(-1, torch.promote_types(read.dtype, torch.float32))
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    return Scored(tuple(chosen.tolist()), tuple((logprobs.argmax(-1) == targets).tolist()))


@torch.inference_mode()
def generate_cached(
    model: DecoderOnly,
    layers: Sequence[int | None],
    requests: Sequence[Generate],
    stopper: Stopper,
) -> list[list[Generated]]:
    """Greedy decoding with the model's own key-value cache, one text after the other.

    What ``model.generate`` does, but it ends at the stop strings, which that cannot.
    """
    outcomes: list[list[Generated]] = []
    for layer in layers:
        with model.hooks(fwd_hooks=skip_hooks(layer)):
            outcomes.append([_decode(model, one, stopper) for one in requests])
    return outcomes


def _decode(model: DecoderOnly, asked: Generate, stopper: Stopper) -> Generated:
    kept: dict[str, Any] = {"past": []}
    if not isinstance(model, DecoderModel):
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.W_E.device, 1)
        kept = {"past_kv_cache": cache}
    tokens, new = list(asked.context), []
    while not new or not stopper.stops(new, asked):
        logits = model(torch.tensor([tokens]), **kept)
        tokens = [int(logits[0, -1].argmax())]
        new += tokens
    return stopper.outcome(new, asked)
