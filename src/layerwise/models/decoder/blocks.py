"""Attention and block of a decoder with hook points at every site.

They compute with Hugging Face's own modules, which they do not own; the names of sites are
TransformerLens's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from layerwise.models.libraries.hooked import HookPoint

from .parts import AttentionParts, BlockParts, Resid

KeysValues = tuple[Float[torch.Tensor, "batch seen _ _"], Float[torch.Tensor, "batch seen _ _"]]


@dataclass
class Past:
    """Keys and values of what one block has seen."""

    own: KeysValues | None = None  # of the tokens so far; None before the first
    cross: KeysValues | None = None  # of an encoder's output; made once

    @property
    def n_tokens(self) -> int:
        """Number of tokens that it has seen."""
        return 0 if self.own is None else self.own[0].shape[1]

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
        """Keys and values of all tokens so far, with those of new ones."""
        if self.own is not None:
            keys, values = torch.cat([self.own[0], keys], 1), torch.cat([self.own[1], values], 1)
        self.own = keys, values
        return self.own


def greedy(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    tokens: Int[torch.Tensor, "batch pos"],
    n_new: int,
    *,
    use_cache: bool,
) -> Int[torch.Tensor, "batch new"]:
    """The most likely tokens, one after the other; a cache needs only the last of them."""
    written = new = tokens
    for _ in range(n_new):
        new = logits_of(new if use_cache else written)[:, -1].argmax(-1, keepdim=True)
        written = torch.cat([written, new], dim=1)
    return written[:, tokens.shape[1] :]


class HookedDecoderAttention(nn.Module):
    """Attention with hooks on queries and keys after rotation, values, scores, pattern, ``z``."""

    def __init__(self, parts: AttentionParts, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.parts, self.residual_scale = parts, residual_scale
        self.hook_rot_q, self.hook_rot_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z = HookPoint()

    def forward(
        self, x: Resid, positions: Int[torch.Tensor, " pos"], past: Past | None = None
    ) -> Float[torch.Tensor, "batch pos head d_head"]:
        """Each head's output at each position, before the output projection."""
        made = self.parts.queries_keys_values(x, positions, int(positions[-1]) + 1)
        q, k = self.hook_rot_q(made.queries), self.hook_rot_k(made.keys)
        v = self.hook_v(made.values)
        if past is not None:
            k, v = past.extend(k, v)
        group = self.parts.n_heads // self.parts.n_key_value_heads
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * self.parts.scale
        if self.parts.cap is not None:
            scores = self.parts.cap * torch.tanh(scores / self.parts.cap)
        seen = visibility_mask(
            positions, torch.arange(k.shape[1], device=x.device), self.parts.window
        )
        scores = self.hook_attn_scores(scores.masked_fill(~seen, float("-inf")))
        wide = torch.promote_types(scores.dtype, torch.float32)
        pattern = self._pattern(scores.to(wide)).to(scores.dtype)
        pattern = self.hook_pattern(pattern)
        return self.hook_z(torch.einsum("bhqk,bkhd->bqhd", pattern, v))

    def _pattern(
        self, scores: Float[torch.Tensor, "batch head query key"]
    ) -> Float[torch.Tensor, "batch head query key"]:
        """Weights of the keys; less than 1 in all where a sink has some."""
        sinks = self.parts.sinks
        if sinks is None:
            return scores.softmax(-1)
        beside = sinks.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, beside], dim=-1).softmax(-1)[..., :-1]

    @property
    def W_O(self) -> Float[torch.Tensor, "head d_head d_model"]:
        """The output projection, a matrix for each head, with the scale of what is added."""
        weight = self.parts.out_weight
        return weight if self.residual_scale == 1.0 else weight * self.residual_scale

    @property
    def b_O(self) -> Float[torch.Tensor, " d_model"]:
        """Its bias; zeros where there is none."""
        weight, bias = self.parts.out_weight, self.parts.out.bias
        if bias is None:
            return weight.new_zeros(weight.shape[-1])
        return bias if self.residual_scale == 1.0 else bias * self.residual_scale


def visibility_mask(
    queries: Int[torch.Tensor, "*any query"],
    keys: Int[torch.Tensor, "*any key"],
    window: int | None,
) -> Bool[torch.Tensor, "*any query key"]:
    """Mask of the keys that a query may look at, by their positions."""
    behind = queries[..., :, None] - keys[..., None, :]
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


class HookedDecoderBlock(nn.Module):
    """One block; a sublayer's output is what it adds to the stream, after norm and scale."""

    # ``hook_resid_mid`` is not there where attention and MLP read the same stream.

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_resid_pre, self.hook_attn_out = HookPoint(), HookPoint()
        if not parts.parallel:
            self.hook_resid_mid = HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()
        self.attn = HookedDecoderAttention(parts.attn, parts.residual_scale)

    def forward(
        self, resid: Resid, positions: Int[torch.Tensor, " pos"], past: Past | None = None
    ) -> Resid:
        """The residual stream behind the block."""
        parts = self.parts
        resid = self.hook_resid_pre(resid)
        z = self.attn(parts.attn_input(resid), positions, past)
        total = resid + self.hook_attn_out(parts.attn_output(z.flatten(-2)))
        total = total if parts.parallel else self.hook_resid_mid(total)
        mlp_out = parts.mlp_output(parts.mlp_input(resid if parts.parallel else total))
        return self.hook_resid_post(total + self.hook_mlp_out(mlp_out))
