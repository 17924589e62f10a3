"""Parts of a decoder, whatever Hugging Face class it comes from.

A family's file fills these values in, ``model`` and the sweep's engine run them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import nn
from transformers.pytorch_utils import Conv1D

from .capture import Heads, QueriesKeysValues, capture_qkv
from .packed import linear_weight

CosSin = tuple[Float[torch.Tensor, "batch pos _"], Float[torch.Tensor, "batch pos _"]]
# Some modules give both as one complex number.
Turns = CosSin | Complex[torch.Tensor, "batch pos _"]


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of positions, from tables that the module fills."""

    module: nn.Module  # Hugging Face's
    layer_type: str | None  # the kind of layer that it is asked for; None if all are alike
    n_ctx: int  # longest text, in tokens; tables never go beyond it
    # Cosines and sines of positions 0, 1, ... by number format and device.
    tables: dict[tuple[Any, ...], Turns] = field(default_factory=dict, repr=False, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rotary:
        return Rotary(copy.deepcopy(self.module, memo), self.layer_type, self.n_ctx)

    def cos_sin(self, positions: Int[torch.Tensor, ...], longest: int, like: torch.Tensor) -> Turns:
        """Cosines and sines of positions."""
        where = positions if positions.ndim == 2 else positions[None]
        table = self._table(longest, like)
        if isinstance(table, torch.Tensor):
            return table[0, where]
        cos, sin = table
        return cos[0, where], sin[0, where]

    def _table(self, longest: int, like: torch.Tensor) -> Turns:
        key = like.dtype, like.device
        known = self.tables.get(key)
        if known is None or _length(known) < longest:
            size = max(longest, min(self.n_ctx, 2 * longest))
            kind = () if self.layer_type is None else (self.layer_type,)
            forward: Any = self.module
            if like.is_meta:
                # Its decorators would look at positions, of which only the number is known.
                forward = partial(inspect.unwrap(type(self.module).forward), self.module)
            # Tables outlive the inference mode or the gradients that they are first asked for in.
            with torch.inference_mode(False), torch.no_grad():
                positions = torch.arange(size, device=like.device)[None]
                known = self.tables[key] = forward(
                    torch.empty(1, 1, 1, dtype=like.dtype, device=like.device), positions, *kind
                )
        return known


def _length(table: Turns) -> int:
    return (table if isinstance(table, torch.Tensor) else table[0]).shape[1]


Resid = Float[torch.Tensor, "batch pos d_model"]
Positions = Int[torch.Tensor, "..."]


@dataclass(frozen=True)
class AttentionParts:
    """One attention."""

    module: nn.Module  # Hugging Face's, which makes queries, keys and values
    out: nn.Linear | Conv1D  # its output projection
    rotary: Rotary | None  # tells it positions; None if they are added to the stream
    n_heads: int  # query heads
    n_key_value_heads: int  # heads that have keys and values of their own
    # Width of a head: of its keys or its values, whichever are wider. What is narrower has zeros
    # behind it, so that all that changes or reads heads finds one width.
    d_head: int
    d_value: int  # width of its values, which the output projection reads
    scale: float  # what scores are multiplied by
    cap: float | None = None  # scores s become cap tanh(s / cap); None if they stay
    window: int | None = None  # how many tokens a query sees, its own among them; None for all
    has_sinks: bool = False  # whether each head has a score for looking at nothing (attention sink)

    def queries_keys_values(
        self, x: Resid, positions: Positions, longest: int
    ) -> QueriesKeysValues:
        """Queries, keys and values of normed streams."""
        turns = self.rotary
        captured = capture_qkv(
            self.module,
            x,
            position_embeddings=None if turns is None else turns.cos_sin(positions, longest, x),
            position_ids=positions if positions.ndim == 2 else positions[None],
        )
        assert captured is not None, "modules that do not hand over are refused when read"
        q, k, v = map(self._pad_heads, (captured.queries, captured.keys, captured.values))
        return QueriesKeysValues(q, k, v, captured.options)

    def _pad_heads(self, heads: Heads) -> Heads:
        missing = self.d_head - heads.shape[-1]
        return nn.functional.pad(heads, (0, missing)) if missing else heads

    @property
    def sinks(self) -> Float[torch.Tensor, " head"] | None:
        """Each head's score for looking at nothing; None if all weight is on tokens."""
        module: Any = self.module
        return module.sinks if self.has_sinks else None

    def project_output(self, z: Float[torch.Tensor, "... head_d_head"]) -> Float[torch.Tensor, ...]:
        """The output projection of what heads read, side by side."""
        if self.d_value < self.d_head:
            z = z.unflatten(-1, (self.n_heads, -1))[..., : self.d_value].flatten(-2)
        return self.out(z)

    @property
    def out_weight(self) -> Float[torch.Tensor, "head d_head d_model"]:
        """The matrix that each head is multiplied by from the right; see ``linear_weight``."""
        weight = linear_weight(self.out).unflatten(0, (self.n_heads, -1))
        missing = self.d_head - self.d_value
        return nn.functional.pad(weight, (0, 0, 0, missing)) if missing else weight


@dataclass(frozen=True)
class BlockParts:
    """One block: norms, attention, MLP, and how they are joined to the stream."""

    attn: AttentionParts
    attn_norm: nn.Module | None  # the norm before it; None if it reads the stream itself
    attn_after: nn.Module | None  # the norm between it and the stream; None if there is none
    mlp: nn.Module  # the MLP, or the experts
    mlp_norm: nn.Module | None  # as ``attn_norm``
    mlp_after: nn.Module | None  # as ``attn_after``
    parallel: bool = False  # whether the MLP reads what enters the block
    residual_scale: float = 1.0  # what sublayers' outputs are multiplied by before they are added

    def attn_input(self, resid: Resid) -> Resid:
        """Attention's input from the stream."""
        return resid if self.attn_norm is None else self.attn_norm(resid)

    def attn_output(self, z: Float[torch.Tensor, "... head_d_head"]) -> Float[torch.Tensor, ...]:
        """Output that attention adds to the stream, from what its heads read, side by side."""
        return self._scaled_output(self.attn.project_output(z), self.attn_after)

    def mlp_input(self, resid: Resid) -> Resid:
        """The MLP's input from the stream."""
        return resid if self.mlp_norm is None else self.mlp_norm(resid)

    def mlp_output(self, x: Resid) -> Resid:
        """Output that the MLP adds to the stream, from what it reads."""
        out: Any = self.mlp(x)
        # Experts of some classes also return how tokens were routed.
        return self._scaled_output(out[0] if isinstance(out, tuple) else out, self.mlp_after)

    def _scaled_output(self, out: torch.Tensor, after: nn.Module | None) -> torch.Tensor:
        out = out if after is None else after(out)
        return out if self.residual_scale == 1.0 else out * self.residual_scale

    def modules(self) -> Iterator[nn.Module]:
        """The modules that are run."""
        norms = (self.attn_norm, self.attn_after, self.mlp_norm, self.mlp_after)
        yield from (norm for norm in (*norms, self.attn.module, self.mlp) if norm is not None)


@dataclass(frozen=True)
class DecoderParts:
    """A whole decoder."""

    # The module that embeds tokens, with the scale or norm that a class of its own applies; the
    # table is its ``weight``.
    embedding: Any
    embed_scale: float  # what else embeddings are multiplied by
    blocks: tuple[BlockParts, ...]  # the layers
    final_norm: nn.Module  # the norm before the unembedding
    unembed: nn.Linear  # the unembedding
    logit_scale: float  # what logits are multiplied by
    logit_cap: float | None  # logits l become cap tanh(l / cap); None if they stay
    n_ctx: int  # longest text, in tokens
    # What is added to the embeddings, by position; None if nothing is.
    positions: nn.Module | None = None

    def embed(self, tokens: Int[torch.Tensor, "batch pos"]) -> Resid:
        """Embedded tokens, before any position is added."""
        embedded = self.embedding(tokens)
        return embedded if self.embed_scale == 1.0 else embedded * self.embed_scale

    def modules(self) -> Iterator[nn.Module]:
        """The modules that are run."""
        yield from (self.embedding, self.final_norm, self.unembed)
        rotary = self.blocks[0].attn.rotary
        beside = (self.positions, None if rotary is None else rotary.module)
        yield from (part for part in beside if part is not None)
        for block in self.blocks:
            yield from block.modules()
