"""The ends of direct paths: what writes into a residual stream, and what reads from it.

Both are named here, by number in a decoder-only model and by address (``encoder.3``) in an
encoder-decoder; what flows between them is told in ``paths``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from layerwise.errors import UserError
from layerwise.ground.layer_names import DECODER, ENCODER, layer_name, spans, stack_name
from layerwise.models.instance.kinds import Model, n_encoder_layers, n_heads_of

EMBEDDING, HEAD, CROSS_HEAD, MLP = "embed", "z", "cross_z", "mlp_out"
_NOUNS = {HEAD: "head", CROSS_HEAD: "cross-attention head", MLP: "mlp"}
LOGITS = "logits"
OF_MEMORY = ("cross_k", "cross_v")
"""What reads the encoder's output rather than the decoder's stream."""
_ADDRESS = rf"(?:{ENCODER}|{DECODER})\.\d+"
# The order in which the sublayers of a block write and read.
_FIRST, _SECOND, _THIRD = range(3)
BEGINNING = (-1, _FIRST)
"""Where an embedding writes, in the order of ``Sender.writes_at``."""
_WRITES = {HEAD: _FIRST, CROSS_HEAD: _SECOND, MLP: _THIRD}
_READS = {"q": _FIRST, "k": _FIRST, "v": _FIRST, "cross_q": _SECOND, "mlp": _THIRD}


@dataclass(frozen=True)
class Sender:
    """What writes into a residual stream: a head, an MLP, or an embedding.

    Attributes:
        layer: the layer, numbered in the order of computation; -1 for an embedding.
        head: the head; None for an MLP and an embedding.
        site: where it is read: ``embed``, ``z``, ``cross_z`` or ``mlp_out``.
        stack: ``encoder`` or ``decoder``; empty in a decoder-only model.
        n_encoder: layers of the encoder; 0 for a decoder-only model.
    """

    layer: int
    head: int | None
    site: str
    stack: str = ""
    n_encoder: int = 0

    @property
    def name(self) -> str:
        """``head 3.1``, ``mlp encoder.3``, ``cross-attention head decoder.3.1``, ``embedding``."""
        if self.site == EMBEDDING:
            return f"{self.stack} embedding".strip()
        named = f"{_NOUNS[self.site]} {layer_name(self.layer, self.n_encoder)}"
        return named if self.head is None else f"{named}.{self.head}"

    @property
    def writes_at(self) -> tuple[int, int]:
        """Its layer, and which sublayer of that: those of one stack write in this order."""
        return self.layer, _WRITES.get(self.site, _FIRST)


@dataclass(frozen=True)
class Receiver:
    """What reads from a residual stream.

    Attributes:
        reads: ``q``, ``k`` or ``v`` of a head, ``cross_q``, ``cross_k`` or ``cross_v`` of a head
            of cross-attention, ``mlp``, or ``logits``.
        layer: the layer, numbered in the order of computation; None for the logits.
        head: the head; under grouped-query attention, for ``k`` and ``v``, the group of heads
            that share them.
        n_encoder: layers of the encoder; 0 for a decoder-only model.
    """

    reads: str
    layer: int | None = None
    head: int | None = None
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
    def reads_at(self) -> tuple[int | float, int]:
        """Where in the order of ``Sender.writes_at``; whatever writes before is heard."""
        if self.layer is None:
            return float("inf"), _FIRST
        if self.reads in OF_MEMORY:
            return self.n_encoder, _FIRST
        return self.layer, _READS[self.reads]

    def hears(self, sender: Sender, parallel: bool) -> bool:
        """Whether the sender has written into the stream that is read, before it is read."""
        layer, sublayer = self.reads_at
        reads_at = (layer, _FIRST if parallel else sublayer)
        return sender.stack == self.stack and sender.writes_at < reads_at


def parse_receiver(text: str, model: Model) -> Receiver:
    """A receiver from ``q:3.1``, ``k:3.1``, ``v:3.1``, ``mlp:3`` or ``logits``.

    In an encoder-decoder layers are named by address, as in ``q:encoder.3.1``, and there are
    ``cross_q:decoder.3.1``, ``cross_k:decoder.3.1`` and ``cross_v:decoder.3.1``, too.
    """
    n_encoder, n_layers = n_encoder_layers(model), model.cfg.n_layers
    if text == LOGITS:
        return Receiver(LOGITS, n_encoder=n_encoder)
    address, cross = (_ADDRESS, "(?:cross_)?") if n_encoder else (r"\d+", "")
    match = re.fullmatch(rf"({cross}[qkv]):({address})\.(\d+)|(mlp):({address})", text)
    if match is None:
        raise UserError(_unreadable(text, n_encoder))
    if match[4] and model.cfg.attn_only:
        raise UserError("The model's blocks have no MLP; choose another receiver.")
    reads, named = match[1] or match[4], match[2] or match[5]
    head = None if match[3] is None else int(match[3])
    crosses = reads.startswith("cross")
    bounds = spans(n_encoder, n_layers)[-1:] if crosses else spans(n_encoder, n_layers)
    known = {layer_name(n, n_encoder): n for start, end in bounds for n in range(start, end + 1)}
    layer = known.get(named)
    n_heads = 0 if layer is None or head is None else _n_heads(model, reads, layer)
    if layer is None or (head is not None and head >= n_heads):
        layers = ", ".join(
            f"{layer_name(start, n_encoder)} to {layer_name(end, n_encoder)}"
            for start, end in bounds
        )
        heads = "" if layer is None else f" and heads 0 to {n_heads - 1} for it"
        raise UserError(
            f"Receiver {text!r} is not in the model, which has {'cross-attention in ' * crosses}"
            f"layers {layers}{heads}; choose one of these."
        )
    return Receiver(reads, layer, head, n_encoder)


def _unreadable(text: str, n_encoder: int) -> str:
    if n_encoder:
        return (
            f"Cannot read the receiver {text!r}: expected logits, mlp:LAYER such as mlp:encoder.3, "
            "or q, k or v of a head such as q:decoder.3.1, with cross_ before it for a head of "
            "cross-attention."
        )
    return (
        f"Cannot read the receiver {text!r}: expected logits, mlp:LAYER, or q, k or v of a head "
        "such as q:5.1."
    )


def _n_heads(model: Model, reads: str, layer: int) -> int:
    """Heads of a layer, or the groups of heads that share the keys and values."""
    shared = model.cfg.n_key_value_heads if reads in ("k", "v") else None
    return shared or n_heads_of(model, layer)


def senders_of(model: Model) -> list[Sender]:
    """Everything that writes into a residual stream, in the order of computation."""
    n_encoder, senders = n_encoder_layers(model), []
    for start, end in spans(n_encoder, model.cfg.n_layers):
        stack = stack_name(start, n_encoder) if n_encoder else ""
        senders.append(Sender(-1, None, EMBEDDING, stack, n_encoder))
        for layer in range(start, end + 1):
            heads = range(n_heads_of(model, layer))
            sites = (HEAD, CROSS_HEAD) if stack == DECODER else (HEAD,)
            senders += [Sender(layer, h, site, stack, n_encoder) for site in sites for h in heads]
            mlp = Sender(layer, None, MLP, stack, n_encoder)
            senders += [] if model.cfg.attn_only else [mlp]
    return senders
