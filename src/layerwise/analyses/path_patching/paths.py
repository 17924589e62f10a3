"""Direct paths between two components of a model: what flows, and what it does.

Everything but the one path is held at the values of the run that is patched, so that the
receiver's input changes by exactly what the sender writes differently in the other run
(Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from layerwise.analyses.patching.cells import AT_ONCE, Hook, answer_logits
from layerwise.errors import UserError
from layerwise.ground.layer_names import DECODER, ENCODER, layer_name, spans, stack_name
from layerwise.models.instance.kinds import (
    DecoderOnly,
    Model,
    by_kind,
    hook_name,
    model_inputs,
    n_encoder_layers,
    n_layer_heads,
    runs_original_modules,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import Seq2SeqBlockParts
from layerwise.sweep.activations.sites import loaded_block
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import final_logits

EMBEDDING, HEAD, CROSS_HEAD, MLP = "embed", "z", "cross_z", "mlp_out"
_NOUNS = {HEAD: "head", CROSS_HEAD: "cross-attention head", MLP: "mlp"}
LOGITS = "logits"
OF_MEMORY = ("cross_k", "cross_v")  # read the encoder's output, not the decoder's stream
# The order in which the sublayers of a block write and read.
_FIRST, _SECOND, _THIRD = range(3)
BEGINNING = (-1, _FIRST)  # where an embedding writes
_WRITES = {HEAD: _FIRST, CROSS_HEAD: _SECOND, MLP: _THIRD}
_READS = {"q": _FIRST, "k": _FIRST, "v": _FIRST, "cross_q": _SECOND, "mlp": _THIRD}


@dataclass(frozen=True)
class Sender:
    """Part that writes into a residual stream: a head, an MLP, or (in layer -1) an embedding."""

    layer: int  # in the order of computation
    head: int | None
    site: str
    stack: str = ""  # none in a decoder-only model
    n_encoder: int = 0

    @property
    def name(self) -> str:
        """``head 3.1``, ``mlp encoder.3``, ``cross-attention head decoder.3.1``, ``embedding``."""
        if self.site == EMBEDDING:
            return f"{self.stack} embedding".strip()
        named = f"{_NOUNS[self.site]} {layer_name(self.layer, self.n_encoder)}"
        return named if self.head is None else f"{named}.{self.head}"

    @property
    def write_order(self) -> tuple[int, int]:
        """Its layer, and which sublayer of that: those of one stack write in this order."""
        return self.layer, _WRITES.get(self.site, _FIRST)


@dataclass(frozen=True)
class Receiver:
    """Part that reads from a residual stream; the logits in no layer."""

    reads: str  # ``q``, ``k`` or ``v`` of a head, with ``cross_`` before, ``mlp`` or ``logits``
    layer: int | None = None
    head: int | None = None  # for ``k`` and ``v`` a group of heads that share them
    n_encoder: int = 0

    @property
    def name(self) -> str:
        """``q:3.1``, ``mlp:encoder.3`` or ``logits``, as it is asked for."""
        if self.layer is None:
            return self.reads
        named = f"{self.reads}:{layer_name(self.layer, self.n_encoder)}"
        return named if self.head is None else f"{named}.{self.head}"

    @property
    def stack(self) -> str:
        """The stack whose stream is read; empty in a decoder-only model."""
        if not self.n_encoder:
            return ""
        if self.reads in OF_MEMORY:
            return ENCODER
        return DECODER if self.layer is None else stack_name(self.layer, self.n_encoder)

    @property
    def site(self) -> str:
        """The hook that holds what it makes of the stream, without its block's name."""
        if self.reads == "mlp":
            return "hook_mlp_out"
        crosses, _, letter = self.reads.rpartition("_")
        return f"{'cross_attn' if crosses else 'attn'}.hook_{letter}"

    @property
    def read_order(self) -> tuple[int | float, int]:
        """Place in the order of ``Sender.write_order``; whatever writes before is heard."""
        if self.layer is None:
            return float("inf"), _FIRST
        if self.reads in OF_MEMORY:
            return self.n_encoder, _FIRST
        return self.layer, _READS[self.reads]

    def hears(self, sender: Sender, parallel: bool) -> bool:
        """True if the sender has written into the stream that is read, before it is read."""
        layer, sublayer = self.read_order
        reads_at = (layer, _FIRST if parallel else sublayer)
        return sender.stack == self.stack and sender.write_order < reads_at


def model_receivers(model: Model) -> dict[str, Receiver]:
    """Every receiver of a model, by its name."""
    n_encoder = n_encoder_layers(model)
    found = [Receiver(LOGITS, n_encoder=n_encoder)]
    for layer in range(model.cfg.n_layers):
        n_heads = n_layer_heads(model, layer)
        n_groups = model.cfg.n_key_value_heads or n_heads  # of heads that share keys and values
        counts = {"q": n_heads, "k": n_groups, "v": n_groups}
        if 0 < n_encoder <= layer:
            counts |= dict.fromkeys(("cross_q", *OF_MEMORY), n_heads)
        for reads, n in counts.items():
            found += [Receiver(reads, layer, head, n_encoder) for head in range(n)]
        if not model.cfg.attn_only:
            found.append(Receiver("mlp", layer, None, n_encoder))
    return {receiver.name: receiver for receiver in found}


def parse_receiver(text: str, model: Model) -> Receiver:
    """The receiver ``q:3.1``, ``mlp:3``, ``logits``, ``cross_k:decoder.3.1`` or the like."""
    known = model_receivers(model)
    if text not in known:
        kinds: dict[str, list[str]] = {}
        for name, receiver in known.items():
            kinds.setdefault(receiver.reads, []).append(name)
        ends = (dict.fromkeys((names[0], names[-1])) for names in kinds.values())
        raise UserError(
            f"Cannot read the receiver {text!r}: expected {', '.join(map(' to '.join, ends))}; "
            "choose one of these."
        )
    return known[text]


def model_senders(model: Model) -> list[Sender]:
    """Everything that writes into a residual stream, in the order of computation."""
    n_encoder, senders = n_encoder_layers(model), []
    for start, end in spans(n_encoder, model.cfg.n_layers):
        stack = stack_name(start, n_encoder) if n_encoder else ""
        senders.append(Sender(-1, None, EMBEDDING, stack, n_encoder))
        for layer in range(start, end + 1):
            heads = range(n_layer_heads(model, layer))
            sites = (HEAD, CROSS_HEAD) if stack == DECODER else (HEAD,)
            senders += [Sender(layer, h, site, stack, n_encoder) for site in sites for h in heads]
            mlp = Sender(layer, None, MLP, stack, n_encoder)
            senders += [] if model.cfg.attn_only else [mlp]
    return senders


_ROTATED = {"attn.hook_q": "attn.hook_rot_q", "attn.hook_k": "attn.hook_rot_k"}
_HELD = ("hook_embed", "hook_attn_out", "hook_cross_attn_out", "hook_mlp_out", "hook_final")
_OUTPUTS = {HEAD: "hook_attn_out", CROSS_HEAD: "hook_cross_attn_out", MLP: "hook_mlp_out"}


@torch.inference_mode()
def sender_outputs(
    model: Model, tokens: Tokens, senders: Sequence[Sender]
) -> list[Float[torch.Tensor, "_ d_model"]]:
    """Output of each sender to its residual stream; of heads without the shared bias."""
    names = {_sender_hook_name(model, sender) for sender in senders}
    _, cache = model.run_with_cache(
        *model_inputs(model, [tokens]), names_filter=lambda n: n in names
    )
    values = []
    for sender in senders:
        value = cache[_sender_hook_name(model, sender)][0]
        if sender.head is not None:
            value = value[:, sender.head] @ _projection(model, sender).to(value)
        values.append(value)
    return values


def _sender_hook_name(model: Model, sender: Sender) -> str:
    """The hook where what a sender writes is seen; of a head, before its output projection."""
    if sender.site != EMBEDDING:
        return hook_name(model, sender.layer, sender.site)
    return f"{sender.stack}.hook_embed" if sender.stack else "blocks.0.hook_resid_pre"


def _projection(model: Model, sender: Sender) -> Float[torch.Tensor, "d_head d_model"]:
    """The output projection of one head."""

    def decoder_weight(model: DecoderOnly) -> torch.Tensor:
        with loaded_block(model, sender.layer) as block:
            return block.attn.W_O[sender.head]

    def seq2seq_weight(model: Seq2SeqModel) -> torch.Tensor:
        block = _block(model, sender.layer)
        attention = block.cross_attn if sender.site == CROSS_HEAD else block.attn
        assert attention is not None
        weight = attention.out.weight.unflatten(1, (attention.n_heads, attention.d_head))
        return weight[:, sender.head].T

    return by_kind(model, decoder_weight, seq2seq_weight)


@torch.inference_mode()
def receiver_logprobs(
    model: Model,
    tokens: Tokens,
    receiver: Receiver,
    senders: Sequence[Sender],
    flows: Float[torch.Tensor, "sender pos d_model"],
) -> Float[torch.Tensor, "sender d_vocab"]:
    """Log-probabilities of the next token if the receiver's input alone changes."""
    run = by_kind(model, lambda m: _HeldStream(m, tokens), lambda m: HeldStreams(m, tokens))
    parts = []
    for start in range(0, len(senders), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        streams = run.stream_at(receiver, senders[some], flows[some])
        if receiver.layer is None:
            parts.append(final_logits(model, streams[:, -1]).double().log_softmax(-1))
        else:
            hook = (
                run.output_hook(receiver),
                _replacing_hook(receiver.head, run.receiver_output(receiver, streams)),
            )
            parts.append(run.logprobs(hook, len(streams)))
    return torch.cat(parts)


def _replacing_hook(head: int | None, outputs: torch.Tensor) -> Callable[..., Any]:
    """A hook that puts in outputs, of one head only if it is given."""

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        if head is None:
            return outputs
        changed = tensor.clone()
        changed[:, :, head] = outputs[:, :, head]
        return changed

    return put


class _HeldStream:
    """Counterpart of ``HeldStreams`` for a decoder-only model, whose stream is a plain sum."""

    def __init__(self, model: DecoderOnly, tokens: Tokens) -> None:
        self._model, self._tokens = model, tokens
        _, self._held = model.run_with_cache(
            *model_inputs(model, [tokens]), names_filter=lambda name: "hook_resid" in name
        )

    def stream_at(
        self,
        receiver: Receiver,
        senders: Sequence[Sender],
        flows: Float[torch.Tensor, "sender pos d_model"],
    ) -> Float[torch.Tensor, "sender pos d_model"]:
        return self._held[self.entry_hook(receiver)] + flows

    def entry_hook(self, receiver: Receiver) -> str:
        """The hook where the stream that a receiver reads is seen."""
        if receiver.layer is None:
            return hook_name(self._model, self._model.cfg.n_layers - 1, "resid_post")
        after_attn = receiver.reads == "mlp" and not self._model.cfg.parallel_attn_mlp
        return hook_name(self._model, receiver.layer, "resid_mid" if after_attn else "resid_pre")

    def output_hook(self, receiver: Receiver) -> str:
        site = receiver.site
        if runs_original_modules(self._model):
            # Seen rotated there; all else is held, so that putting in either comes to the same.
            site = _ROTATED.get(site, site)
        return f"blocks.{receiver.layer}.{site}"

    def receiver_output(
        self, receiver: Receiver, streams: Float[torch.Tensor, "sender pos d_model"]
    ) -> Float[torch.Tensor, "sender pos *out"]:
        assert receiver.layer is not None
        kept: list[torch.Tensor] = []
        self._model.run_with_hooks(
            *model_inputs(self._model, [self._tokens] * len(streams)),
            fwd_hooks=[
                (self.entry_hook(receiver), _replacing_hook(None, streams)),
                (self.output_hook(receiver), lambda tensor, hook: kept.append(tensor)),
            ],
            stop_at_layer=receiver.layer + 1,
        )
        return kept[0]

    def logprobs(self, hook: Hook, n: int) -> Float[torch.Tensor, "row d_vocab"]:
        return answer_logits(self._model, [self._tokens] * n, [hook]).double().log_softmax(-1)


class HeldStreams:
    """The streams of one run of an encoder-decoder, to be read with one sender changed."""

    def __init__(self, model: Seq2SeqModel, tokens: Tokens) -> None:
        self.model, self._tokens = model, tokens
        _, self._held = model.run_with_cache(
            *model_inputs(model, [tokens]), names_filter=lambda name: name.endswith(_HELD)
        )

    def stream_at(
        self,
        receiver: Receiver,
        senders: Sequence[Sender],
        flows: Float[torch.Tensor, "sender pos d_model"],
    ) -> Float[torch.Tensor, "sender pos d_model"]:
        """The stream that a receiver reads, before any norm of its own, for each sender."""

        def sum_at(place: tuple[int, int]) -> torch.Tensor:
            here = torch.tensor([sender.write_order == place for sender in senders])
            return flows * here.to(flows)[:, None, None]

        stream = self._held[f"{receiver.stack}.hook_embed"] + sum_at(BEGINNING)
        for place, output, norm in self._sublayers(receiver.stack):
            if place >= receiver.read_order:
                break
            total = stream + self._held[output] + sum_at(place)
            stream = norm(total) if self.model.cfg.post_norm else total
        return stream

    def receiver_output(
        self, receiver: Receiver, streams: Float[torch.Tensor, "sender pos d_model"]
    ) -> Float[torch.Tensor, "sender pos *out"]:
        """Output of a receiver in a block on such streams; of a head, with all beside it."""
        assert receiver.layer is not None
        block, letter = _block(self.model, receiver.layer), receiver.reads[-1]
        attention, norm = block.attn, block.attn_norm
        if receiver.reads == "mlp":
            norm = block.mlp_norm
        elif receiver.reads.startswith("cross"):
            assert block.cross_attn is not None
            assert block.cross_norm is not None
            attention, norm = block.cross_attn, block.cross_norm
        if receiver.reads in OF_MEMORY:
            read = self.model.parts.encoder.final_norm(streams)
        else:
            read = streams if self.model.cfg.post_norm else norm(streams)
        if receiver.reads == "mlp":
            return block.mlp(read)
        linear: nn.Linear = getattr(attention, letter)
        return linear(read).unflatten(-1, (attention.n_heads, attention.d_head))

    def output_hook(self, receiver: Receiver) -> str:
        """The hook that holds what a receiver makes of the stream."""
        assert receiver.layer is not None
        return self.model.hook_name(receiver.layer, receiver.site)

    def logprobs(self, hook: Hook, n: int) -> Float[torch.Tensor, "row d_vocab"]:
        """Log-probabilities where the answer begins, in n runs under a hook."""
        # The encoder runs again only if the hook is there.
        if hook[0].startswith(ENCODER):
            return answer_logits(self.model, [self._tokens] * n, [hook]).double().log_softmax(-1)
        _, begins = model_inputs(self.model, [self._tokens] * n)
        memory = self._held[f"{ENCODER}.hook_final"].expand(n, -1, -1)
        with self.model.hooks(fwd_hooks=[hook]):
            return self.model.decode(begins, memory)[:, -1].double().log_softmax(-1)

    def _sublayers(self, stack: str) -> Iterator[tuple[tuple[int, int], str, nn.Module]]:
        """Place where each sublayer writes, its output's hook, and the norm that belongs to it."""
        n_encoder, n_layers = self.model.cfg.n_encoder_layers, self.model.cfg.n_layers
        for layer in range(n_encoder) if stack == ENCODER else range(n_encoder, n_layers):
            block = _block(self.model, layer)
            norms = {HEAD: block.attn_norm, CROSS_HEAD: block.cross_norm, MLP: block.mlp_norm}
            for site, norm in norms.items():
                if norm is not None:
                    place = Sender(layer, None, site).write_order
                    yield place, self.model.hook_name(layer, _OUTPUTS[site]), norm


def _block(model: Seq2SeqModel, layer: int) -> Seq2SeqBlockParts:
    return [*model.parts.encoder.blocks, *model.parts.decoder.blocks][layer]
