"""Direct paths between two components of a model: the sender, the receiver, and what flows.

Everything but the one path is held at the values of the run that is patched, so that the
receiver's input changes by exactly what the sender writes differently in the other run
(Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from layerwise._hooked_patches import AT_ONCE
from layerwise.errors import UserError
from layerwise.sweep.readout import logits_of
from layerwise.sweep.requests import Tokens

Stream = Float[torch.Tensor, "pos d_model"]
INPUTS = ("q", "k", "v", "mlp", "logits")


@dataclass(frozen=True)
class Sender:
    """What writes into the residual stream: a head, an MLP, or the embedding.

    Attributes:
        layer: the layer; -1 for the embedding.
        head: the head; None for an MLP and the embedding.
    """

    layer: int
    head: int | None = None

    @property
    def name(self) -> str:
        """``head 3.1``, ``mlp 3`` or ``embedding``."""
        if self.layer < 0:
            return "embedding"
        return f"mlp {self.layer}" if self.head is None else f"head {self.layer}.{self.head}"


@dataclass(frozen=True)
class Receiver:
    """What reads from the residual stream.

    Attributes:
        reads: ``q``, ``k`` or ``v`` of a head, ``mlp``, or ``logits``.
        layer: the layer; None for the logits.
        head: the head; under grouped-query attention, for ``k`` and ``v``, the group of heads
            that share them.
    """

    reads: str
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """``q:3.1``, ``mlp:3`` or ``logits``, as it is asked for."""
        if self.layer is None:
            return self.reads
        return f"{self.reads}:{self.layer}" + ("" if self.head is None else f".{self.head}")

    def hears(self, sender: Sender, parallel: bool) -> bool:
        """Whether the sender has written before the receiver reads."""
        if self.layer is None or sender.layer < self.layer:
            return True
        own = sender.layer == self.layer and sender.head is not None
        return own and self.reads == "mlp" and not parallel


def parse_receiver(text: str, model: HookedTransformer) -> Receiver:
    """A receiver from ``q:3.1``, ``k:3.1``, ``v:3.1``, ``mlp:3`` or ``logits``.

    Raises:
        UserError: if it cannot be read, or is not in the model.
    """
    if text == "logits":
        return Receiver("logits")
    cfg: Any = model.cfg
    match = re.fullmatch(r"(?:([qkv]):(\d+)\.(\d+)|(mlp):(\d+))", text)
    if match is None:
        raise UserError(
            f"Cannot read the receiver {text!r}: expected logits, mlp:LAYER, or q, k or v of a "
            "head such as q:5.1."
        )
    if match[4]:
        if cfg.attn_only:
            raise UserError("The model's blocks have no MLP; choose another receiver.")
        found = Receiver("mlp", int(match[5]))
    else:
        found = Receiver(match[1], int(match[2]), int(match[3]))
    shared = cfg.n_key_value_heads if found.reads in ("k", "v") else None
    n_heads = shared or cfg.n_heads
    assert found.layer is not None
    if found.layer >= cfg.n_layers or (found.head or 0) >= n_heads:
        heads = "" if found.head is None else f" and heads 0 to {n_heads - 1} for it"
        raise UserError(
            f"Receiver {text!r} is not in the model, which has layers 0 to {cfg.n_layers - 1}"
            f"{heads}; choose one of these."
        )
    return found


def senders_of(model: HookedTransformer) -> list[Sender]:
    """Everything that writes into the stream, from the embedding on."""
    cfg = model.cfg
    found = [Sender(-1)]
    for layer in range(cfg.n_layers):
        found += [Sender(layer, head) for head in range(cfg.n_heads)]
        found += [] if cfg.attn_only else [Sender(layer)]
    return found


@torch.inference_mode()
def written(
    model: HookedTransformer, tokens: Tokens, senders: Sequence[Sender]
) -> Float[torch.Tensor, "sender pos d_model"]:
    """What each sender adds to the residual stream; of heads without the shared bias."""
    wanted = ("hook_resid_pre", "attn.hook_z", "hook_mlp_out")
    _, cache = model.run_with_cache(
        torch.tensor([tokens], device=model.W_E.device),
        names_filter=lambda name: name.endswith(wanted),
    )
    found = []
    for sender in senders:
        if sender.layer < 0:
            found.append(cache["blocks.0.hook_resid_pre"][0])
        elif sender.head is None:
            found.append(cache[f"blocks.{sender.layer}.hook_mlp_out"][0])
        else:
            z = cache[f"blocks.{sender.layer}.attn.hook_z"][0, :, sender.head]
            found.append(z @ model.blocks[sender.layer].attn.W_O[sender.head])
    return torch.stack(found)


@torch.inference_mode()
def received(
    model: HookedTransformer,
    tokens: Tokens,
    receiver: Receiver,
    flows: Float[torch.Tensor, "sender pos d_model"],
) -> Float[torch.Tensor, "sender d_vocab"]:
    """Log-probabilities of the next token if the receiver's input alone changes.

    Args:
        model: the model.
        tokens: the prompt whose run is patched.
        receiver: reads its input with a flow added; all that depends on it follows.
        flows: what is added, one run each.
    """
    batch = torch.tensor([tokens], device=model.W_E.device)
    if receiver.layer is None:
        last = _run(model, batch, [])[0, -1] + flows[:, -1]
        return torch.cat([_logprobs(model, part) for part in torch.split(last, AT_ONCE)])
    return torch.cat(
        [_received(model, batch, receiver, part) for part in torch.split(flows, AT_ONCE)]
    )


def _received(
    model: HookedTransformer, batch: torch.Tensor, receiver: Receiver, flows: torch.Tensor
) -> torch.Tensor:
    assert receiver.layer is not None
    batch = batch.expand(len(flows), -1)
    block, reads = f"blocks.{receiver.layer}", receiver.reads
    output = f"{block}.hook_mlp_out" if reads == "mlp" else f"{block}.attn.hook_{reads}"
    parallel = model.cfg.parallel_attn_mlp
    entry = f"{block}.hook_resid_mid" if reads == "mlp" and not parallel else (
        f"{block}.hook_resid_pre"
    )  # fmt: skip
    kept: dict[str, torch.Tensor] = {}

    def add(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return tensor + flows

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        kept["output"] = tensor

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        if receiver.head is None:
            return kept["output"]
        changed = tensor.clone()
        changed[:, :, receiver.head] = kept["output"][:, :, receiver.head]
        return changed

    _run(model, batch, [(entry, add), (output, keep)], receiver.layer + 1)
    return _logprobs(model, _run(model, batch, [(output, put)])[:, -1])


def _run(
    model: HookedTransformer,
    batch: torch.Tensor,
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    stop_at_layer: int | None = None,
) -> torch.Tensor:
    stop = model.cfg.n_layers if stop_at_layer is None else stop_at_layer
    return model.run_with_hooks(batch, fwd_hooks=list(hooks), stop_at_layer=stop)


def _logprobs(model: HookedTransformer, resid: torch.Tensor) -> torch.Tensor:
    return logits_of(model, resid).double().log_softmax(-1)
