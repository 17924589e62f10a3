"""Attention, block and stack of an encoder-decoder model with hook points at every site.

They compute with Hugging Face's own modules, which they do not own; the names of sites are
TransformerLens's.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from layerwise.models.decoder.blocks import Past
from layerwise.models.libraries.hooked import HookPoint

from .parts import Resid, Seq2SeqAttentionParts, Seq2SeqBlockParts, StackParts

Heads = Float[torch.Tensor, "batch pos head d_head"]
# Of self-attention and of cross-attention, which differ in their keys.
Bias = Float[torch.Tensor, "_ _ _ _"]


class HookedAttention(nn.Module):
    """Attention with hooks on queries, keys, values, scores, pattern and ``z``."""

    def __init__(self, parts: Seq2SeqAttentionParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z = HookPoint()

    def keys_values(self, x: Resid) -> tuple[Heads, Heads]:
        """Keys and values of a sequence."""
        return self.hook_k(self._split(self.parts.k(x))), self.hook_v(self._split(self.parts.v(x)))

    def forward(self, x: Resid, keys: torch.Tensor, values: torch.Tensor, bias: Bias) -> Resid:
        """Output of each position's reading of given keys and values, projected."""
        q = self.hook_q(self._split(self.parts.q(x)))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) * self.parts.scale + bias
        pattern = self.hook_pattern(self.hook_attn_scores(scores).softmax(-1))
        z = self.hook_z(torch.einsum("bhqk,bkhd->bqhd", pattern, values))
        return self.parts.out(z.flatten(2))

    def _split(self, x: torch.Tensor) -> Heads:
        return x.unflatten(-1, (self.parts.n_heads, -1))


class HookedBlock(nn.Module):
    """One block; ``resid_mid`` stands behind self-attention, ``resid_mid_cross`` behind cross."""

    # In a post-norm model the norm belongs to the sum: ``resid_mid``, ``resid_mid_cross`` and
    # ``resid_post`` are normed, and a sublayer's output is what it adds before that.

    def __init__(self, parts: Seq2SeqBlockParts, *, post_norm: bool) -> None:
        super().__init__()
        self.parts, self.post_norm = parts, post_norm
        self.hook_resid_pre, self.hook_resid_mid = HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()
        self.hook_resid_post = HookPoint()
        self.attn = HookedAttention(parts.attn)
        if parts.cross_attn is not None:
            self.cross_attn = HookedAttention(parts.cross_attn)
            self.hook_cross_attn_out, self.hook_resid_mid_cross = HookPoint(), HookPoint()

    def forward(
        self,
        resid: Resid,
        bias: Bias,
        memory: torch.Tensor | None = None,
        memory_bias: Bias | None = None,
        past: Past | None = None,
    ) -> Resid:
        """The residual stream behind the block."""
        parts = self.parts
        resid = self.hook_resid_pre(resid)
        read = self._pre_norm(parts.attn_norm, resid)
        own = self.attn.keys_values(read)
        own = own if past is None else past.extend(*own)
        attn_out = self.hook_attn_out(self.attn(read, *own, bias))
        resid = self.hook_resid_mid(self._post_norm(parts.attn_norm, resid + attn_out))
        if parts.cross_norm is not None and memory is not None and memory_bias is not None:
            read = self._pre_norm(parts.cross_norm, resid)
            seen = self._cross(past, memory)
            cross_out = self.hook_cross_attn_out(self.cross_attn(read, *seen, memory_bias))
            resid = self.hook_resid_mid_cross(self._post_norm(parts.cross_norm, resid + cross_out))
        mlp_out = self.hook_mlp_out(parts.mlp(self._pre_norm(parts.mlp_norm, resid)))
        return self.hook_resid_post(self._post_norm(parts.mlp_norm, resid + mlp_out))

    def _pre_norm(self, norm: nn.Module, resid: Resid) -> Resid:
        return resid if self.post_norm else norm(resid)

    def _post_norm(self, norm: nn.Module, resid: Resid) -> Resid:
        return norm(resid) if self.post_norm else resid

    def _cross(self, past: Past | None, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the encoder's output."""
        if past is None:
            return self.cross_attn.keys_values(memory)
        if past.cross is None:
            past.cross = self.cross_attn.keys_values(memory)
        return past.cross


class HookedStack(nn.Module):
    """The encoder or the decoder, from token ids to what its final norm makes of the stream."""

    def __init__(self, parts: StackParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_embed, self.hook_final = HookPoint(), HookPoint()
        blocks = [HookedBlock(block, post_norm=parts.post_norm) for block in parts.blocks]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, *given: Any) -> Float[torch.Tensor, "batch pos d_model"]:
        """Run the stack; takes what ``last_stream`` takes."""
        return self.hook_final(self.parts.final_norm(self.last_stream(*given)))

    def last_stream(
        self,
        tokens: Int[torch.Tensor, "batch pos"],
        mask: Bool[torch.Tensor, "batch seen"] | None,
        memory: torch.Tensor | None = None,
        memory_mask: Bool[torch.Tensor, "batch input_pos"] | None = None,
        cache: list[Past] | None = None,
    ) -> Float[torch.Tensor, "batch pos d_model"]:
        """Output of the last block, before the final norm."""
        before = cache[0].n_tokens if cache else 0
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        resid = self.hook_embed(self.parts.embed(tokens, positions))
        if cache is not None and not cache:
            cache += [Past() for _ in self.blocks]
        causal = memory is not None
        bias = self._bias(positions, resid, mask, causal=causal)
        memory_bias = None if memory is None else _padding_bias(memory_mask, memory)
        for number, block in enumerate(self.blocks):
            resid = block(resid, bias, memory, memory_bias, cache[number] if cache else None)
        return resid

    def _bias(
        self,
        positions: Int[torch.Tensor, " pos"],
        like: Resid,
        mask: Bool[torch.Tensor, "batch seen"] | None,
        *,
        causal: bool,
    ) -> Bias:
        """Relative positions, padding and, in the decoder, what is still to come."""
        keys = torch.arange(int(positions[-1]) + 1, device=positions.device)
        bias = like.new_zeros(1, 1, len(positions), len(keys))
        if self.parts.relative is not None:
            bias = bias + self.parts.relative.position_bias(positions, keys)[None]
        if mask is not None:
            bias = bias + _padding_bias(mask, like)
        if causal:
            # The lowest number, not minus infinity: a padded query may have nothing to look at.
            bias = bias.masked_fill(keys > positions[:, None], torch.finfo(like.dtype).min)
        return bias


def _padding_bias(mask: torch.Tensor | None, like: torch.Tensor) -> Bias:
    """Additive mask that hides padding."""
    if mask is None:
        return like.new_zeros(1, 1, 1, like.shape[1])
    lowest = torch.finfo(like.dtype).min
    return like.new_zeros(mask.shape).masked_fill_(~mask, lowest)[:, None, None]
