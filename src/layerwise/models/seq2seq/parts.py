"""Parts of an encoder-decoder model, whatever Hugging Face class it comes from.

A family's file fills these values in; ``model`` runs them. No computation but that of embeddings'
relative positions lives here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.activations import NewGELUActivation

Resid = Float[torch.Tensor, "batch pos d_model"]
Embed = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Seq2SeqAttentionParts:
    """One attention."""

    q: nn.Linear  # makes queries, all heads side by side
    k: nn.Linear  # makes keys
    v: nn.Linear  # makes values
    out: nn.Linear  # the output projection
    n_heads: int
    scale: float  # what scores are multiplied by

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.q.out_features // self.n_heads


@dataclass(frozen=True)
class MlpParts:
    """One MLP: ``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))``."""

    up: nn.Linear
    down: nn.Linear
    act: Callable[[torch.Tensor], torch.Tensor]
    gate: nn.Linear | None = None

    def __call__(self, x: Float[torch.Tensor, "... d_model"]) -> Float[torch.Tensor, "... d_model"]:
        """The MLP's output."""
        up = self.up(x)
        hidden = self.act(up) if self.gate is None else self.act(self.gate(x)) * up
        # Some classes keep this one matrix in float32.
        return self.down(hidden.to(self.down.weight.dtype)).to(x.dtype)


def activation(module: nn.Module) -> nn.Module:
    """An activation of Hugging Face's, as one operation where it is written out as eight."""
    return nn.GELU(approximate="tanh") if type(module) is NewGELUActivation else module


@dataclass(frozen=True)
class Seq2SeqBlockParts:
    """One block."""

    attn: Seq2SeqAttentionParts  # self-attention
    attn_norm: nn.Module  # the norm before it, or after it and its sum in a post-norm model
    mlp: MlpParts
    mlp_norm: nn.Module  # the same for the MLP
    cross_attn: Seq2SeqAttentionParts | None = (
        None  # in a decoder, the attention to the encoder's output
    )
    cross_norm: nn.Module | None = None  # the same for that


@dataclass(frozen=True)
class RelativeBias:
    """T5's relative position bias, one number a head and bucket of distances."""

    # Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.

    table: nn.Embedding  # the numbers
    bidirectional: bool  # whether keys may come after the query; half of the buckets are for these
    max_distance: int  # from this distance on all are in one bucket

    def position_bias(
        self, queries: Int[torch.Tensor, " query"], keys: Int[torch.Tensor, " key"]
    ) -> Float[torch.Tensor, "head query key"]:
        """The bias of each query position and key position."""
        return self.table(self._bucket(keys[None] - queries[:, None])).permute(2, 0, 1)

    def _bucket(self, ahead: Int[torch.Tensor, "query key"]) -> Int[torch.Tensor, "query key"]:
        """Distances near zero have buckets of their own, further ones share, in powers."""
        n_buckets = self.table.num_embeddings
        first = torch.zeros_like(ahead)
        if self.bidirectional:
            n_buckets //= 2
            first = (ahead > 0).long() * n_buckets
            distance = ahead.abs()
        else:
            distance = (-ahead).clamp(min=0)
        n_exact = n_buckets // 2
        ratio = torch.log(distance.float() / n_exact) / math.log(self.max_distance / n_exact)
        far = (n_exact + (ratio * (n_buckets - n_exact)).long()).clamp(max=n_buckets - 1)
        return first + torch.where(distance < n_exact, distance, far)


@dataclass(frozen=True)
class StackParts:
    """The encoder or the decoder."""

    blocks: tuple[Seq2SeqBlockParts, ...]
    embed: Embed  # token ids and positions to the residual stream that enters the first block
    final_norm: nn.Module  # what is applied behind the last block; the identity where nothing is
    # Whether norms come after the sums (Vaswani et al. 2017) or before the sublayers.
    post_norm: bool
    # The relative position bias of self-attention, shared by all blocks; None if positions are in
    # the embedding.
    relative: RelativeBias | None


@dataclass(frozen=True)
class Seq2SeqParts:
    """A whole model."""

    encoder: StackParts
    decoder: StackParts
    unembed: nn.Linear  # weight of the unembedding, ``[d_vocab, d_model]``
    unembed_bias: Callable[[], torch.Tensor | None]  # what is added to the logits, if anything
    unembed_scale: float  # what the decoder's output is multiplied by first
    embedding: nn.Embedding  # the weight of the token embedding of the encoder
    n_ctx: int  # longest input, and longest output, in tokens

    def modules(self) -> Iterator[nn.Module | None]:
        """Every module that is run, some twice; None where a model has none."""
        yield from (self.unembed, self.embedding)
        for stack in (self.encoder, self.decoder):
            yield stack.final_norm
            yield None if stack.relative is None else stack.relative.table
            for block in stack.blocks:
                yield from (block.attn_norm, block.mlp_norm, block.cross_norm)
                yield from (block.mlp.up, block.mlp.down, block.mlp.gate)
                yield block.mlp.act if isinstance(block.mlp.act, nn.Module) else None
                for attn in (block.attn, block.cross_attn):
                    if attn is not None:
                        yield from (attn.q, attn.k, attn.v, attn.out)
