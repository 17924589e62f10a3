"""Attention of newly generated tokens: to a row's own keys, and to beginnings shared by rows.

Invariant: for each query the result is the softmax over all its keys, shared and own; what is
shared is read where it lies and never copied per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float

from .runner import SharedKeys, StepLayout

Heads = Float[torch.Tensor, "row new head d_head"]
Grouped = Float[torch.Tensor, "row kv_head group_new d_head"]


class PartialAttention(NamedTuple):
    """Attention to some of the keys, to be merged with that to the others."""

    out: Grouped  # the values, weighted as if there were no other keys
    # Logarithm of the sum of the exponentiated scores.
    weight: Float[torch.Tensor, "row kv_head group_new 1"]


@dataclass(frozen=True)
class Scoring:
    """How scores come about, beside products of queries and keys."""

    scale: float  # what products are multiplied by
    cap: float | None = None  # scores s become cap tanh(s / cap); None if they stay
    window: int | None = None  # how many tokens a query sees, its own among them; None for all
    # Each head's score for looking at nothing; None if all weight is on tokens.
    sinks: Float[torch.Tensor, " head"] | None = None

    @property
    def written_out(self) -> bool:
        """True if no fused kernel can be used: scores are modified, or weights are needed."""
        return self.cap is not None or self.sinks is not None

    def merged(self, parts: list[PartialAttention], group: int) -> Grouped:
        """Merge partial attention, sinks included."""
        if self.sinks is not None:
            parts = [*parts, self._to_nothing(parts[0], group)]
        return parts[0].out if len(parts) == 1 else merged(parts)

    def _to_nothing(self, like: PartialAttention, group: int) -> PartialAttention:
        """Attention sinks as a partial attention with zero values."""
        assert self.sinks is not None
        n_heads, n_query = like.out.shape[1], like.out.shape[2] // group
        each = self.sinks.to(like.weight).unflatten(0, (-1, group)).repeat_interleave(n_query, 1)
        each = each.repeat(n_heads // len(each), 1)[None, :, :, None]
        return PartialAttention(torch.zeros_like(like.out), each.expand_as(like.weight))


def attend_step(queries: Heads, layout: StepLayout, group: int, scoring: Scoring) -> Heads:
    """Each new token's attention to all keys before it and its own."""
    n_new = queries.shape[1]
    grouped = queries.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out, weight = _own(grouped, layout, group, scoring)
    if weight is not None:
        parts = [
            PartialAttention(out, weight),
            *(_shared(grouped, s, layout, group, scoring) for s in layout.shared),
        ]
        out = scoring.merged(parts, group).to(queries.dtype)
    return out.unflatten(2, (group, n_new)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _own(
    queries: Grouped, layout: StepLayout, group: int, scoring: Scoring
) -> tuple[Grouped, Float[torch.Tensor, "row kv_head group_new 1"] | None]:
    """Attention to the rows' own keys; with its weight if there is more to attend to."""
    places = torch.arange(layout.n_own, device=queries.device)
    seen = places <= layout.index[..., None]
    if scoring.window is not None:
        # Own keys follow one another, so that their places are as far apart as their positions.
        seen &= layout.index[..., None] - places < scoring.window
    mask = seen[:, None].expand(-1, group, -1, -1).flatten(1, 2)[:, None]
    at, inside = layout.slots, None
    if layout.span is not None:
        # A view of a few more rows than are decoded, instead of a copy of those that are.
        at, inside = layout.span, layout.slots - layout.span.start
        n_rows = layout.span.stop - layout.span.start
        if n_rows == len(inside):
            inside = None
        else:
            spread = queries.new_zeros(n_rows, *queries.shape[1:])
            spread[inside] = queries
            queries = spread
            everything = mask.new_ones(n_rows, *mask.shape[1:])
            everything[inside] = mask
            mask = everything
    keys, values = (x[at, :, : layout.n_own] for x in (layout.own.keys, layout.own.values))
    bias = queries.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    if not layout.shared and not scoring.written_out:
        out, weight = (
            F.scaled_dot_product_attention(queries, keys, values, bias, scale=scoring.scale),
            None,
        )
    else:
        out, weight = attend_part(queries, keys, values, scoring.scale, bias, scoring.cap)
        weight = weight if layout.shared or scoring.sinks is not None else None
    if inside is not None:
        out, weight = out[inside], None if weight is None else weight[inside]
    return out, weight


def attend_part(
    queries: Float[torch.Tensor, "row kv_head query d_head"],
    keys: Float[torch.Tensor, "row kv_head key d_head"],
    values: Float[torch.Tensor, "row kv_head key d_head"],
    scale: float,
    bias: Float[torch.Tensor, "_ 1 _ key"] | None = None,
    cap: float | None = None,
) -> PartialAttention:
    """Attention to some keys, with its weight."""
    scores = torch.matmul(queries * scale, keys.transpose(-1, -2))
    # Sums over keys are made in float32 at least, whatever the model's format.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if cap is not None:
        scores = scores.div_(cap).tanh_().mul_(cap)
    if bias is not None:
        scores += bias
    # A query that may see none of these keys has no weight, rather than an undefined one.
    lowest, least = torch.finfo(scores.dtype).min, torch.finfo(scores.dtype).tiny
    highest = scores.amax(dim=-1, keepdim=True).clamp_(min=lowest)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    out = torch.matmul(weights.to(values.dtype), values)
    return PartialAttention(out / total.clamp(min=least), highest + total.log())


def _shared(
    queries: Grouped, shared: SharedKeys, layout: StepLayout, group: int, scoring: Scoring
) -> PartialAttention:
    """Attention to a shared beginning: the rows of a source are more queries of it."""
    n_source, n_slot = shared.rows.shape
    gathered = queries[shared.rows.flatten()].unflatten(0, (n_source, n_slot))
    together = gathered.transpose(1, 2).flatten(2, 3)
    bias = _beyond(shared, layout, group, scoring.window, queries)
    part = attend_part(together, shared.keys, shared.values, scoring.scale, bias, scoring.cap)
    out, weight = (
        x.unflatten(2, (n_slot, -1)).transpose(1, 2).flatten(0, 1)[shared.place] for x in part
    )
    if len(shared.attending) == len(queries):
        return PartialAttention(out, weight)
    everywhere = PartialAttention(
        out.new_zeros(queries.shape), weight.new_full((*queries.shape[:-1], 1), float("-inf"))
    )
    everywhere.out[shared.attending], everywhere.weight[shared.attending] = out, weight
    return everywhere


def _beyond(
    shared: SharedKeys, layout: StepLayout, group: int, window: int | None, like: torch.Tensor
) -> Float[torch.Tensor, "source 1 _ shared"] | None:
    """Minus infinity where a shared key lies before a query's window; None where none does."""
    n_shared = shared.keys.shape[2]
    if window is None or layout.longest <= window:
        return None
    # A beginning is that of its prompt, so that its places are positions.
    places = torch.arange(n_shared, device=like.device)
    hidden = layout.positions[shared.rows][..., None] - places >= window
    hidden = hidden[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 3)[:, None]
    return like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def merged(parts: list[PartialAttention]) -> Grouped:
    """Merge partial attention over disjoint keys."""
    weights = torch.stack([part.weight for part in parts])
    shares = torch.softmax(weights, dim=0)
    return sum(part.out * share for part, share in zip(parts, shares, strict=True))  # type: ignore[return-value]
