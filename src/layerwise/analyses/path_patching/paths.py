"""Direct paths between two components of a model: what flows, and what it does.

Everything but the one path is held at the values of the run that is patched, so that the
receiver's input changes by exactly what the sender writes differently in the other run
(Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969).
The ends of paths are named in ``components``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float

from layerwise.analyses.patching.hooked_patches import AT_ONCE, Hook, answer_logits
from layerwise.models.kinds import (
    DecoderOnly,
    Model,
    by_kind,
    hook_name,
    inputs_of,
    over_original,
)
from layerwise.sweep.last_sites import held_block
from layerwise.sweep.readout import logits_of
from layerwise.sweep.requests import Tokens

from .components import EMBEDDING, Receiver, Sender
from .frozen_streams import HeldStreams, head_projection

_ROTATED = {"attn.hook_q": "attn.hook_rot_q", "attn.hook_k": "attn.hook_rot_k"}


@torch.inference_mode()
def written(
    model: Model, tokens: Tokens, senders: Sequence[Sender]
) -> list[Float[torch.Tensor, "_ d_model"]]:
    """What each sender adds to its residual stream; of heads without the shared bias."""
    names = {_written_at(model, sender) for sender in senders}
    _, cache = model.run_with_cache(*inputs_of(model, [tokens]), names_filter=lambda n: n in names)
    found = []
    for sender in senders:
        value = cache[_written_at(model, sender)][0]
        if sender.head is not None:
            value = value[:, sender.head] @ _projection(model, sender).to(value)
        found.append(value)
    return found


def _written_at(model: Model, sender: Sender) -> str:
    """The hook where what a sender writes is seen; of a head, before its output projection."""
    if sender.site != EMBEDDING:
        return hook_name(model, sender.layer, sender.site)
    return f"{sender.stack}.hook_embed" if sender.stack else "blocks.0.hook_resid_pre"


def _projection(model: Model, sender: Sender) -> Float[torch.Tensor, "d_head d_model"]:
    """The output projection of one head."""

    def of_decoder(one: DecoderOnly) -> torch.Tensor:
        with held_block(one, sender.layer) as block:
            return block.attn.W_O[sender.head]

    return by_kind(model, of_decoder, lambda one: head_projection(one, sender))


@torch.inference_mode()
def received(
    model: Model,
    tokens: Tokens,
    receiver: Receiver,
    senders: Sequence[Sender],
    flows: Float[torch.Tensor, "sender pos d_model"],
) -> Float[torch.Tensor, "sender d_vocab"]:
    """Log-probabilities of the next token if the receiver's input alone changes."""
    run = by_kind(model, lambda one: _HeldStream(one, tokens), lambda one: HeldStreams(one, tokens))
    found = []
    for start in range(0, len(senders), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        streams = run.at(receiver, senders[some], flows[some])
        if receiver.layer is None:
            found.append(logits_of(model, streams[:, -1]).double().log_softmax(-1))
        else:
            hook = run.output_of(receiver), _putting(receiver.head, run.read(receiver, streams))
            found.append(run.said(hook, len(streams)))
    return torch.cat(found)


def _putting(head: int | None, outputs: torch.Tensor) -> Callable[..., Any]:
    """A hook that puts in outputs, of one head only if it is given."""

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        if head is None:
            return outputs
        changed = tensor.clone()
        changed[:, :, head] = outputs[:, :, head]
        return changed

    return put


class _HeldStream:
    """What ``HeldStreams`` is, of a decoder-only model, whose stream is a plain sum."""

    def __init__(self, model: DecoderOnly, tokens: Tokens) -> None:
        self._model, self._tokens = model, tokens
        _, self._held = model.run_with_cache(
            *inputs_of(model, [tokens]), names_filter=lambda name: "hook_resid" in name
        )

    def at(
        self,
        receiver: Receiver,
        senders: Sequence[Sender],
        flows: Float[torch.Tensor, "sender pos d_model"],
    ) -> Float[torch.Tensor, "sender pos d_model"]:
        return self._held[self.entry_of(receiver)] + flows

    def entry_of(self, receiver: Receiver) -> str:
        """The hook where the stream that a receiver reads is seen."""
        if receiver.layer is None:
            return hook_name(self._model, self._model.cfg.n_layers - 1, "resid_post")
        after_attn = receiver.reads == "mlp" and not self._model.cfg.parallel_attn_mlp
        return hook_name(self._model, receiver.layer, "resid_mid" if after_attn else "resid_pre")

    def output_of(self, receiver: Receiver) -> str:
        site = receiver.site
        if over_original(self._model):
            # Seen rotated there; all else is held, so that putting in either comes to the same.
            site = _ROTATED.get(site, site)
        return f"blocks.{receiver.layer}.{site}"

    def read(
        self, receiver: Receiver, streams: Float[torch.Tensor, "sender pos d_model"]
    ) -> Float[torch.Tensor, "sender pos *out"]:
        assert receiver.layer is not None
        kept: dict[str, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, hook: Any) -> None:
            kept["output"] = tensor

        self._model.run_with_hooks(
            *inputs_of(self._model, [self._tokens] * len(streams)),
            fwd_hooks=[
                (self.entry_of(receiver), _putting(None, streams)),
                (self.output_of(receiver), keep),
            ],
            stop_at_layer=receiver.layer + 1,
        )
        return kept["output"]

    def said(self, hook: Hook, n: int) -> Float[torch.Tensor, "row d_vocab"]:
        return answer_logits(self._model, [self._tokens] * n, [hook]).double().log_softmax(-1)
