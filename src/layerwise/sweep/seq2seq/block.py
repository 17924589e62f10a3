"""One block of either stack on packed tokens, with changes at its sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from layerwise.models.seq2seq.parts import AttentionParts, BlockParts, RelativeBias
from layerwise.sweep.changes.layer_edits import Activation, LayerEdits
from layerwise.sweep.packed.layout import KeysValues

Heads = Float[torch.Tensor, "branch token head d_head"]


@dataclass(frozen=True)
class Run:
    """Query tokens and the keys that they attend to."""

    queries: tuple[int, ...]  # packed indices
    keys: tuple[int, ...]  # packed indices, of the keys' own packing
    # Whether query i is the key that stands len(queries) - i before the end, and sees up to itself;
    # otherwise all keys are seen.
    causal: bool


@dataclass(frozen=True)
class Picked:
    """Packed tokens, in rows."""

    index: Int[torch.Tensor, "row place"]  # their packed indices
    span: slice | None  # the part of the packing that they are, if one stands after the other

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device) -> Picked:
        """Tokens by row."""
        span = in_a_row(list(chain.from_iterable(rows)))
        return cls(torch.tensor(rows, device=device), span)

    def out_of(
        self, x: Float[torch.Tensor, "source token ..."]
    ) -> Float[torch.Tensor, "source row place ..."]:
        """These tokens' activations."""
        if self.span is None:
            return x[:, self.index]
        return x[:, self.span].unflatten(1, self.index.shape)


def in_a_row(numbers: list[int]) -> slice | None:
    """The slice for consecutive indices; None if they are not consecutive."""
    first, after = numbers[0], numbers[0] + len(numbers)
    return slice(first, after) if numbers == list(range(first, after)) else None


@dataclass(frozen=True)
class Rectangle:
    """Attention runs of one shape as a batch."""

    queries: Picked  # packed index of each query
    keys: Picked  # packed index of each key
    # What is added to the scores of all rows; None for nothing.
    bias: Float[torch.Tensor, "1 _ query key"] | None


@dataclass(frozen=True)
class AttentionLayout:
    """The attention pattern of packed tokens as rectangles."""

    rectangles: tuple[Rectangle, ...]  # all runs
    # Where each token is found in the rectangles' queries, one after the other; None if they are in
    # order.
    order: Int[torch.Tensor, " token"] | None

    def read(
        self,
        queries: Heads,
        keys: Float[torch.Tensor, "source key_token head d_head"],
        values: Float[torch.Tensor, "source key_token head d_head"],
        scale: float,
    ) -> Heads:
        """What each head reads at each token."""
        return self._in_order(
            [_rectangle(queries, keys, values, rectangle, scale) for rectangle in self.rectangles]
        )

    def read_memory(
        self,
        queries: Heads,
        memory: Float[torch.Tensor, "branch input_token d_model"],
        attention: AttentionParts,
    ) -> Heads:
        """Read encoder outputs of branches without materialising keys and values."""
        # The keys' matrix is put to the queries, and the values' to what was mixed: q (W m) is (q
        # W) m, and a sum of W m is W of the sum (DeepSeek-AI 2024, arXiv:2405.04434, section
        # 2.1.2). A bias of the keys is the same for all of them, and the softmax takes it off.
        outputs = []
        for rows in self.rectangles:
            asking, seen = (
                picked.out_of(x).flatten(0, 1)
                for picked, x in ((rows.queries, queries), (rows.keys, memory))
            )
            z = read_out_of(seen, asking, attention)
            outputs.append(z.unflatten(0, (len(queries), -1)).flatten(1, 2))
        return self._in_order(outputs)

    def _in_order(self, outputs: list[torch.Tensor]) -> Heads:
        both = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return both if self.order is None else both[:, self.order]


def memory_is_cheaper(looks: Sequence[tuple[int, int]], d_head: int) -> bool:
    """True if ``read_memory`` takes at most half of the work."""
    return 2 * reading_as_tokens(looks, d_head) <= sum(n_keys for _, n_keys in looks)


def reading_as_tokens(looks: Sequence[tuple[int, int]], d_head: int) -> float:
    """The work of ``read_memory`` in input tokens whose keys and values cost as much."""
    # They are two products for each token. Without them there are two for each query, and in each
    # head scores and mixtures as wide as the stream.
    return sum((n_queries * (1 + n_keys / d_head) for n_queries, n_keys in looks), start=0.0)


def attention_layout(
    runs: Sequence[Run], n_tokens: int, relative: RelativeBias | None, like: torch.Tensor
) -> AttentionLayout:
    """Lay runs out in rectangles."""
    shapes: dict[tuple[int, int, bool], list[Run]] = {}
    for run in runs:
        shapes.setdefault((len(run.queries), len(run.keys), run.causal), []).append(run)
    rectangles = []
    for (n_query, n_key, causal), group in shapes.items():
        queries = Picked.of([run.queries for run in group], like.device)
        keys = Picked.of([run.keys for run in group], like.device)
        bias = bias_of(n_query, n_key, causal, relative, like)
        rectangles.append(Rectangle(queries, keys, bias))
    if len(rectangles) == 1 and rectangles[0].queries.span == slice(0, n_tokens):
        return AttentionLayout(tuple(rectangles), None)
    order = torch.empty(n_tokens, dtype=torch.long, device=like.device)
    if rectangles:
        flat = torch.cat([rectangle.queries.index.flatten() for rectangle in rectangles])
        order[flat] = torch.arange(n_tokens, device=like.device)
    return AttentionLayout(tuple(rectangles), order)


def bias_of(
    n_query: int, n_key: int, causal: bool, relative: RelativeBias | None, like: torch.Tensor
) -> Float[torch.Tensor, "1 _ query key"] | None:
    """The bias of the last ``n_query`` of ``n_key`` positions, on all that they may see."""
    hidden = causal and n_query > 1
    if relative is None and not hidden:
        return None
    keys = torch.arange(n_key, device=like.device)
    queries = keys[n_key - n_query :]
    bias = like.new_zeros(1, 1, n_query, n_key)
    if relative is not None:
        bias = bias + relative.between(queries, keys)[None].to(like.dtype)
    return bias.masked_fill(keys > queries[:, None], float("-inf")) if hidden else bias


def _rectangle(
    queries: Heads,
    keys: Float[torch.Tensor, "source key_token head d_head"],
    values: Float[torch.Tensor, "source key_token head d_head"],
    rows: Rectangle,
    scale: float,
) -> Float[torch.Tensor, "branch row_query head d_head"]:
    n_branches, (n_rows, n_query) = len(queries), rows.queries.index.shape
    shared = len(keys) == 1 < n_branches
    q = rows.queries.out_of(queries)  # [branch row query head d_head]
    k, v = (rows.keys.out_of(x).transpose(2, 3).flatten(0, 1) for x in (keys, values))
    if shared and rows.bias is None:
        # All branches look at the same keys: they are more queries of them.
        q = q.permute(1, 3, 0, 2, 4).flatten(2, 3)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        out = out.unflatten(2, (n_branches, n_query)).permute(2, 0, 3, 1, 4)
        return out.flatten(1, 2)
    if shared:
        k, v = (x.repeat(n_branches, 1, 1, 1) for x in (k, v))
    q = q.transpose(2, 3).flatten(0, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.bias, scale=scale)
    return out.transpose(1, 2).unflatten(0, (n_branches, n_rows)).flatten(1, 2)


def read_out_of(
    memory: Float[torch.Tensor, "group key d_model"],
    queries: Float[torch.Tensor, "group query head d_head"],
    attention: AttentionParts,
) -> Float[torch.Tensor, "group query head d_head"]:
    """Outputs of cross-attention heads without materialised keys and values."""
    n_groups, n_queries, n_heads, d_head = queries.shape
    by_head = queries.permute(2, 0, 1, 3).flatten(1, 2)
    wide = torch.bmm(by_head, attention.k.weight.unflatten(0, (n_heads, d_head)))
    wide = wide.unflatten(1, (n_groups, n_queries)).transpose(0, 1).flatten(1, 2)[:, None]
    seen = memory[:, None]
    mixed = F.scaled_dot_product_attention(wide, seen, seen, scale=attention.scale)[:, 0]
    mixed = mixed.unflatten(1, (n_heads, n_queries)).transpose(0, 1).flatten(1, 2)
    z = torch.bmm(mixed, attention.v.weight.unflatten(0, (n_heads, d_head)).transpose(1, 2))
    if attention.v.bias is not None:
        z = z + attention.v.bias.unflatten(0, (n_heads, d_head))[:, None]
    return z.unflatten(1, (n_groups, n_queries)).permute(1, 2, 0, 3)


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
