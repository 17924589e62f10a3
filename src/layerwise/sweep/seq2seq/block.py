"""One block of either stack on packed tokens, with changes at its sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.seq2seq.parts import AttentionParts, BlockParts
from layerwise.sweep.changes.layer_edits import Activation, LayerEdits
from layerwise.sweep.packed.layout import KeysValues

Attend = Callable[[torch.Tensor, KeysValues], torch.Tensor]
Look = Callable[[torch.Tensor], torch.Tensor]
Names = tuple[str, str]


def keys_values(attention: AttentionParts, x: Float[torch.Tensor, "_ _ d_model"]) -> KeysValues:
    """Keys and values of some tokens."""
    split = (attention.n_heads, attention.d_head)
    return KeysValues(attention.k(x).unflatten(-1, split), attention.v(x).unflatten(-1, split))


@dataclass(frozen=True)
class Block:
    """A block's modules applied to packed tokens."""

    parts: BlockParts  # the modules
    post_norm: bool  # whether norms come after the sums

    def run(
        self,
        resid: Activation,
        attend: Attend,
        cross: Look | None,
        edits: LayerEdits,
    ) -> Activation:
        """The block's output."""
        parts = self.parts
        stream = edits.changed("resid_pre", resid)
        attention = partial(self._attention, attend, edits)
        names = ("attn_out", "resid_mid")
        stream = self._sublayer(stream, parts.attn_norm, attention, edits, names)
        if parts.cross_norm is not None:
            attention = partial(self._cross_attention, cross, edits)
            names = ("cross_attn_out", "resid_mid_cross")
            stream = self._sublayer(stream, parts.cross_norm, attention, edits, names)
        return self._sublayer(stream, parts.mlp_norm, parts.mlp, edits, ("mlp_out", "resid_post"))

    def _sublayer(
        self, stream: Activation, norm: nn.Module, compute: Any, edits: LayerEdits, names: Names
    ) -> Activation:
        """Add a sublayer's output (first site) to the stream (second site)."""
        out, after = names
        total = stream + edits.output(
            out, lambda: compute(stream if self.post_norm else norm(stream)), stream
        )
        return edits.changed(after, norm(total) if self.post_norm else total)

    def _attention(self, attend: Attend, edits: LayerEdits, read: Activation) -> Activation:
        attn = self.parts.attn
        z = attend(_queries(attn, read), keys_values(attn, read))
        return attn.out(edits.changed("z", z).flatten(2))

    def _cross_attention(
        self, look: Look | None, edits: LayerEdits, read: Activation
    ) -> Activation:
        attn = self.parts.cross_attn
        assert look is not None
        assert attn is not None
        z = look(_queries(attn, read))
        return attn.out(edits.changed("cross_z", z).flatten(2))


def _queries(
    attention: AttentionParts, x: Float[torch.Tensor, "_ _ d_model"]
) -> Float[torch.Tensor, "_ _ head d_head"]:
    return attention.q(x).unflatten(-1, (attention.n_heads, attention.d_head))
