"""Attention of packed tokens, rectangle by rectangle, and of newly generated ones.

Invariant: for each query the result is the softmax over all its keys, those that it shares with
others and its own; what is shared is read where it lies and never copied per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from layerwise.models.seq2seq.parts import RelativeBias
from layerwise.sweep.plans.trie import AttentionRows

from .layout import (
    KeptKeysValues,
    KeysValues,
    Layout,
    SharedKeys,
    SplitKeys,
    StepLayout,
    mask_to_bias,
)

Attended = Float[torch.Tensor, "group output head d_head"]
Heads = Float[torch.Tensor, "row new head d_head"]
Grouped = Float[torch.Tensor, "row kv_head group_new d_head"]


class PartialAttention(NamedTuple):
    """Attention to some of the keys, to be merged with that to the others."""

    out: Grouped  # the values, weighted as if there were no other keys
    # Logarithm of the sum of the exponentiated scores.
    weight: Float[torch.Tensor, "row kv_head group_new 1"]


@dataclass(frozen=True)
class ScoreModifiers:
    """Parts of attention scores beside products of queries and keys."""

    scale: float  # what products are multiplied by
    cap: float | None = None  # scores s become cap tanh(s / cap); None if they stay
    window: int | None = None  # how many tokens a query sees, its own among them; None for all
    # Each head's score for looking at nothing; None if all weight is on tokens.
    sinks: Float[torch.Tensor, " head"] | None = None
    relative: RelativeBias | None = None  # what distances add to scores of new tokens

    @property
    def needs_unfused(self) -> bool:
        """True if no fused kernel can be used: scores are modified, or weights are needed."""
        return self.cap is not None or self.sinks is not None

    def merge_with_sinks(self, parts: list[PartialAttention], group: int) -> Grouped:
        """Merge partial attention, sinks included."""
        if self.sinks is not None:
            parts = [*parts, self._sink_attention(parts[0], group)]
        return parts[0].out if len(parts) == 1 else merge_partial(parts)

    def _sink_attention(self, like: PartialAttention, group: int) -> PartialAttention:
        """Attention sinks as a partial attention with zero values."""
        assert self.sinks is not None
        n_heads, n_query = like.out.shape[1], like.out.shape[2] // group
        each = self.sinks.to(like.weight).unflatten(0, (-1, group)).repeat_interleave(n_query, 1)
        each = each.repeat(n_heads // len(each), 1)[None, :, :, None]
        return PartialAttention(torch.zeros_like(like.out), each.expand_as(like.weight))


def attend_step(queries: Heads, layout: StepLayout, group: int, scoring: ScoreModifiers) -> Heads:
    """Each new token's attention to all keys before it and its own."""
    n_new = queries.shape[1]
    grouped = queries.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out, weight = _own(grouped, layout, group, scoring)
    if weight is not None:
        parts = [
            PartialAttention(out, weight),
            *(_attend_to_shared_keys(grouped, s, layout, group, scoring) for s in layout.shared),
        ]
        out = scoring.merge_with_sinks(parts, group).to(queries.dtype)
    return out.unflatten(2, (group, n_new)).permute(0, 3, 1, 2, 4).flatten(2, 3)


def _own(
    queries: Grouped, layout: StepLayout, group: int, scoring: ScoreModifiers
) -> tuple[Grouped, Float[torch.Tensor, "row kv_head group_new 1"] | None]:
    """Attention to the rows' own keys; with its weight if there is more to attend to."""
    places = torch.arange(layout.n_own, device=queries.device)
    seen = places <= layout.index[..., None]
    if scoring.window is not None:
        # Own keys follow one another, so that their places are as far apart as their positions.
        seen &= layout.index[..., None] - places < scoring.window
    bias = mask_to_bias(seen[:, None].expand(-1, group, -1, -1).flatten(1, 2)[:, None], queries)
    if scoring.relative is not None:  # one new token a row, at its place
        distant = scoring.relative.position_bias(layout.index[:, 0], places)
        bias = bias + distant.transpose(0, 1)[:, :, None].to(bias)
    if not layout.shared and not scoring.needs_unfused:
        return attend_in_cache(queries, layout.own, bias, layout, scoring.scale), None

    def attend_cached(q: Any, keys: Any, values: Any, hidden: Any) -> PartialAttention:
        return attend_part(q, keys, values, scoring.scale, hidden, scoring.cap)

    out, weight = _in_cache(queries, layout.own, bias, layout, attend_cached)
    return out, weight if layout.shared or scoring.sinks is not None else None


def attend_in_cache(
    queries: Grouped,
    cache: KeptKeysValues,
    bias: Float[torch.Tensor, "row _ _ key"],
    layout: StepLayout,
    scale: float,
) -> Grouped:
    """Attention of rows to the first keys of their places in a cache."""

    def attend_whole(q: Any, keys: Any, values: Any, hidden: Any) -> tuple[torch.Tensor]:
        return (F.scaled_dot_product_attention(q, keys, values, hidden, scale=scale),)

    return _in_cache(queries, cache, bias, layout, attend_whole)[0]


def _in_cache(
    queries: Grouped,
    cache: KeptKeysValues,
    bias: Float[torch.Tensor, "row _ _ key"],
    layout: StepLayout,
    attend: Callable[..., Sequence[torch.Tensor]],
) -> Sequence[torch.Tensor]:
    at, inside = layout.slots, None
    if layout.span is not None:
        at, n_rows = layout.span, layout.span.stop - layout.span.start
        if n_rows > len(layout.slots):
            # A view of a few more rows than are decoded, instead of a copy of those that are.
            inside = layout.slots - layout.span.start
            queries, bias = (
                x.new_zeros(n_rows, *x.shape[1:]).index_copy_(0, inside, x) for x in (queries, bias)
            )
    keys, values = (x[at, :, : bias.shape[-1]] for x in (cache.keys, cache.values))
    outputs = attend(queries, keys, values, bias)
    return outputs if inside is None else [x[inside] for x in outputs]


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


def _attend_to_shared_keys(
    queries: Grouped, shared: SharedKeys, layout: StepLayout, group: int, scoring: ScoreModifiers
) -> PartialAttention:
    """Attention to a shared beginning: the rows of a source are more queries of it."""
    n_source, n_slot = shared.rows.shape
    gathered = queries[shared.rows.flatten()].unflatten(0, (n_source, n_slot))
    together = gathered.transpose(1, 2).flatten(2, 3)
    bias = _window_mask(shared, layout, group, scoring.window, queries)
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


def _window_mask(
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
    return mask_to_bias(~hidden, like)


def merge_partial(parts: list[PartialAttention]) -> Grouped:
    """Merge partial attention over disjoint keys."""
    weights = torch.stack([part.weight for part in parts])
    shares = torch.softmax(weights, dim=0)
    return sum(part.out * share for part, share in zip(parts, shares, strict=True))  # type: ignore[return-value]


class PackedAttention:
    """Causal attention of packed queries to the keys of their own sequences."""

    def __init__(self, n_kv: int, group: int, d_head: int, scoring: ScoreModifiers) -> None:
        # n_kv: key/value heads; group: query heads that share one.
        # d_head: width of a head.
        self.n_kv, self.group, self.d_head = n_kv, group, d_head
        # How scores come about.
        self.scoring, self.scale, self.cap = scoring, scoring.scale, scoring.cap

    def __call__(
        self, queries: Attended, own: KeysValues, outside: KeysValues | None, layout: Layout
    ) -> Attended:
        """Attention, rectangle by rectangle; all branches of a rectangle as more heads."""
        layout = layout.windowed_layout(self.scoring.window)
        outputs: list[torch.Tensor] = []
        if layout.carried is None:
            for rows, bias in zip(layout.rows, layout.biases, strict=True):
                outputs += self._rectangle(queries, own, rows, bias, layout.scratch)
        else:
            assert outside is not None, "a part of the tokens needs the others' keys and values"
            for rows, split in zip(layout.rows, layout.splits, strict=True):
                outputs.append(self._split(queries, own, outside, rows, split, layout.scratch))
        both = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
        if layout.order is not None:
            both = both.index_select(2, layout.order)
        return both.transpose(1, 2)

    def _rectangle(
        self,
        queries: Attended,
        own: KeysValues,
        rows: AttentionRows,
        bias: Float[torch.Tensor, "_ 1 _ _"] | None,
        scratch: int,
    ) -> Iterator[Float[torch.Tensor, "group head _ d_head"]]:
        """A rectangle whose keys are all carried, some of its rows at once."""
        n_row, n_key = rows.keys.shape
        branches, element = len(own.keys), own.keys.element_size()
        at_once = max(1, scratch // (2 * branches * n_key * self.n_kv * self.d_head * element))
        for start in range(0, n_row, at_once):
            part = slice(start, start + at_once)
            q = _as_heads(queries, rows.queries[part])
            k, v = (_as_heads(x, rows.keys[part]) for x in (own.keys, own.values))
            out = self._sdpa(q, k, v, bias if bias is None or rows.causal else bias[part])
            yield _as_tokens(out, branches)

    def _split(
        self,
        queries: Attended,
        own: KeysValues,
        outside: KeysValues,
        rows: AttentionRows,
        split: SplitKeys,
        scratch: int,
    ) -> Float[torch.Tensor, "group head _ d_head"]:
        """A rectangle whose first keys are the trunk's: all branches attend to these in place."""
        keys, values = (x[0, split.outside].transpose(1, 2) for x in (outside.keys, outside.values))
        n_outside = split.outside.shape[1]
        scores = (
            rows.queries.numel() * self.n_kv * self.group * max(1, n_outside) * keys.element_size()
        )
        at_once = max(1, scratch // scores)
        outputs = []
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            q = _as_heads(queries[part], rows.queries)
            folded = q.unflatten(1, (-1, self.group)).flatten(2, 3)
            k, v = (_as_heads(x[part], split.own) for x in (own.keys, own.values))
            parts = [attend_part(folded, k, v, self.scale, split.own_bias, self.cap)]
            if n_outside:
                branches = len(queries[part])
                together = folded.unflatten(1, (branches, -1)).transpose(1, 2).flatten(2, 3)
                hidden = split.outside_bias
                if hidden is not None and hidden.shape[2] > 1:
                    hidden = hidden.repeat(1, 1, branches, 1)
                shared = attend_part(together, keys, values, self.scale, hidden, self.cap)
                parts.append(
                    PartialAttention(
                        *(
                            x.unflatten(2, (branches, -1)).transpose(1, 2).flatten(1, 2)
                            for x in shared
                        )
                    )
                )
            out = self.scoring.merge_with_sinks(parts, self.group).to(q.dtype)
            out = out.unflatten(2, (self.group, -1)).flatten(1, 2)
            outputs.append(_as_tokens(out, len(queries[part])))
        return torch.cat(outputs)

    def _sdpa(
        self,
        queries: Float[torch.Tensor, "row branch_head query d_head"],
        keys: Float[torch.Tensor, "row branch_kv_head key d_head"],
        values: Float[torch.Tensor, "row branch_kv_head key d_head"],
        bias: Float[torch.Tensor, "_ 1 grouped_query key"] | None,
    ) -> Float[torch.Tensor, "row branch_head query d_head"]:
        """Attention of a rectangle; heads that share keys are more queries of them."""
        if bias is None and not self.scoring.needs_unfused:
            return F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=self.scale, enable_gqa=self.group > 1
            )
        folded = queries.unflatten(1, (-1, self.group)).flatten(2, 3)
        if self.scoring.needs_unfused:
            bias = _causal_bias(queries, self.group) if bias is None else bias
            part = attend_part(folded, keys, values, self.scale, bias, self.cap)
            out = self.scoring.merge_with_sinks([part], self.group).to(queries.dtype)
        else:
            out = F.scaled_dot_product_attention(
                folded, keys, values, attn_mask=bias, scale=self.scale
            )
        return out.unflatten(2, (self.group, -1)).flatten(1, 2)


def _causal_bias(
    queries: Float[torch.Tensor, "row head query d_head"], group: int
) -> Float[torch.Tensor, "1 1 grouped_query query"]:
    """0 up to a query's own place, minus infinity behind it, for sequences as a whole."""
    size = queries.shape[2]
    hidden = torch.full((size, size), float("-inf"), dtype=queries.dtype, device=queries.device)
    return hidden.triu(1).repeat(group, 1)[None, None]


def _as_heads(
    x: Float[torch.Tensor, "branch packed head d_head"], index: Int[torch.Tensor, "row token"]
) -> Float[torch.Tensor, "row branch_head token d_head"]:
    """The tokens of each row, for all branches and heads."""
    taken = x[:, index.flatten()].unflatten(1, tuple(index.shape))
    return taken.permute(1, 0, 3, 2, 4).flatten(1, 2)


def _as_tokens(
    out: Float[torch.Tensor, "row branch_head token d_head"], branches: int
) -> Float[torch.Tensor, "branch head row_token d_head"]:
    """The rows' tokens one after the other again, by branch and head."""
    return out.unflatten(1, (branches, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3)
