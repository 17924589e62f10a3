"""One block of either stack on packed tokens, with changes at its sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.seq2seq.parts import AttentionParts, BlockParts

from .._edits import Activation, LayerEdits
from ..layout import KeysValues

Observe = Callable[[str, torch.Tensor], None]


def keys_values(attention: AttentionParts, x: Float[torch.Tensor, "_ _ d_model"]) -> KeysValues:
    """Keys and values of some tokens."""
    split = (attention.n_heads, attention.d_head)
    return KeysValues(attention.k(x).unflatten(-1, split), attention.v(x).unflatten(-1, split))


@dataclass(frozen=True)
class Block:
    """A block's modules applied to packed tokens.

    Attributes:
        parts: the modules.
        post_norm: whether norms come after the sums.
    """

    parts: BlockParts
    post_norm: bool

    def run(
        self,
        resid: Activation,
        attend: Callable[[torch.Tensor, KeysValues], torch.Tensor],
        cross: Callable[[torch.Tensor], torch.Tensor] | None,
        edits: LayerEdits,
        observe: Observe | None = None,
    ) -> Activation:
        """What leaves the block.

        Args:
            resid: what enters it.
            attend: from queries and own keys and values to what each head of self-attention
                reads.
            cross: from queries to what each head of cross-attention reads; None in an encoder.
            edits: the changes.
            observe: told of the activation of each site, changed or not.
        """
        parts = self.parts

        def seen(site: str, activation: torch.Tensor) -> torch.Tensor:
            if observe is not None:
                observe(site, activation)
            return activation

        def attention(read: Activation) -> torch.Tensor:
            z = attend(_queries(parts.attn, read), keys_values(parts.attn, read))
            return parts.attn.out(seen("z", edits.changed("z", z)).flatten(2))

        def cross_attention(read: Activation) -> torch.Tensor:
            assert cross is not None
            assert parts.cross_attn is not None
            z = cross(_queries(parts.cross_attn, read))
            return parts.cross_attn.out(seen("cross_z", edits.changed("cross_z", z)).flatten(2))

        def sublayer(
            stream: Activation, norm: nn.Module, compute: Any, out: str, after: str
        ) -> Activation:
            def added() -> torch.Tensor:
                return compute(stream if self.post_norm else norm(stream))

            total = stream + seen(out, edits.output(out, added, stream))
            found = norm(total) if self.post_norm else total
            return seen(after, edits.changed(after, found))

        stream = seen("resid_pre", edits.changed("resid_pre", resid))
        stream = sublayer(stream, parts.attn_norm, attention, "attn_out", "resid_mid")
        if parts.cross_norm is not None:
            names = ("cross_attn_out", "resid_mid_cross")
            stream = sublayer(stream, parts.cross_norm, cross_attention, *names)
        return sublayer(stream, parts.mlp_norm, parts.mlp, "mlp_out", "resid_post")


def _queries(
    attention: AttentionParts, x: Float[torch.Tensor, "_ _ d_model"]
) -> Float[torch.Tensor, "_ _ head d_head"]:
    return attention.q(x).unflatten(-1, (attention.n_heads, attention.d_head))
