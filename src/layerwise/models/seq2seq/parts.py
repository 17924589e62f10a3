"""What an encoder-decoder model is made of, whatever Hugging Face class it comes from.

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
class AttentionParts:
    """One attention.

    Attributes:
        q: makes queries, all heads side by side.
        k: makes keys.
        v: makes values.
        out: the output projection.
        n_heads: number of heads.
        scale: what scores are multiplied by.
    """

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    n_heads: int
    scale: float

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
class BlockParts:
    """One block.

    Attributes:
        attn: self-attention.
        attn_norm: the norm before it, or after it and its sum in a post-norm model.
        mlp: the MLP.
        mlp_norm: the same for the MLP.
        cross_attn: in a decoder, the attention to the encoder's output.
        cross_norm: the same for that.
    """

    attn: AttentionParts
    attn_norm: nn.Module
    mlp: MlpParts
    mlp_norm: nn.Module
    cross_attn: AttentionParts | None = None
    cross_norm: nn.Module | None = None


@dataclass(frozen=True)
class RelativeBias:
    """T5's relative position bias, one number a head and bucket of distances.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.

    Attributes:
        table: the numbers.
        bidirectional: whether keys may come after the query; half of the buckets are for these.
        max_distance: from this distance on all are in one bucket.
    """

    table: nn.Embedding
    bidirectional: bool
    max_distance: int

    def between(
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
    """The encoder or the decoder.

    Attributes:
        blocks: its blocks.
        embed: token ids and positions to the residual stream that enters the first block.
        final_norm: what is applied behind the last block; the identity where nothing is.
        post_norm: whether norms come after the sums (Vaswani et al. 2017) or before the
            sublayers.
        relative: the relative position bias of self-attention, shared by all blocks; None if
            positions are in the embedding.
    """

    blocks: tuple[BlockParts, ...]
    embed: Embed
    final_norm: nn.Module
    post_norm: bool
    relative: RelativeBias | None


@dataclass(frozen=True)
class StoredStack:
    """How the files of a model tell the layers of a stack.

    Attributes:
        n_layers: the field of ``config.json`` that says how many there are.
        blocks: what stands before a layer's number in the names of its tensors.
        of_first: what follows the number in the names of tensors that the first layer has for
            all of them, whichever layer that is.
    """

    n_layers: str
    blocks: str
    of_first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """A whole model.

    Attributes:
        encoder: the encoder.
        decoder: the decoder.
        unembed: weight of the unembedding, ``[d_vocab, d_model]``.
        unembed_bias: what is added to the logits, if anything.
        unembed_scale: what the decoder's output is multiplied by first.
        embedding: the weight of the token embedding of the encoder.
        n_ctx: longest input, and longest output, in tokens.
    """

    encoder: StackParts
    decoder: StackParts
    unembed: nn.Linear
    unembed_bias: Callable[[], torch.Tensor | None]
    unembed_scale: float
    embedding: nn.Embedding
    n_ctx: int

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
