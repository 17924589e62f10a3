"""Attention of packed tokens, in rectangles of sequences of the same shape: no padding.

All rows of a rectangle see the same of their keys, so one bias serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from layerwise.models.seq2seq.parts import RelativeBias

Heads = Float[torch.Tensor, "branch token head d_head"]


@dataclass(frozen=True)
class Run:
    """Some tokens that attend, and what they see.

    Attributes:
        queries: packed indices.
        keys: packed indices, of the keys' own packing.
        causal: whether query i is the key that stands len(queries) - i before the end, and sees
            up to itself; otherwise all keys are seen.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    causal: bool


@dataclass(frozen=True)
class Rectangle:
    """Runs of one shape.

    Attributes:
        queries: packed index of each query.
        keys: packed index of each key.
        bias: what is added to the scores of all rows; None for nothing.
    """

    queries: Int[torch.Tensor, "row query"]
    keys: Int[torch.Tensor, "row key"]
    bias: Float[torch.Tensor, "1 _ query key"] | None


@dataclass(frozen=True)
class Attending:
    """Who attends to whom.

    Attributes:
        rectangles: all runs.
        order: where each token is found in the rectangles' queries, one after the other.
    """

    rectangles: tuple[Rectangle, ...]
    order: Int[torch.Tensor, " token"]

    def read(
        self,
        queries: Heads,
        keys: Float[torch.Tensor, "source key_token head d_head"],
        values: Float[torch.Tensor, "source key_token head d_head"],
        scale: float,
    ) -> Heads:
        """What each head reads at each token.

        Args:
            queries: of each branch.
            keys: of each branch, or of one that all branches share.
            values: the same.
            scale: what scores are multiplied by.
        """
        found = [_rectangle(queries, keys, values, one, scale) for one in self.rectangles]
        return torch.cat(found, dim=1)[:, self.order]


def attending(
    runs: Sequence[Run], n_tokens: int, relative: RelativeBias | None, like: torch.Tensor
) -> Attending:
    """Lay runs out in rectangles.

    Args:
        runs: each token is a query of exactly one.
        n_tokens: how many tokens there are.
        relative: bias by relative position, where the model has one.
        like: gives device and number format.
    """
    shapes: dict[tuple[int, int, bool], list[Run]] = {}
    for run in runs:
        shapes.setdefault((len(run.queries), len(run.keys), run.causal), []).append(run)
    rectangles = []
    for (n_query, n_key, causal), group in shapes.items():
        queries = torch.tensor([run.queries for run in group], device=like.device)
        keys = torch.tensor([run.keys for run in group], device=like.device)
        bias = bias_of(n_query, n_key, causal, relative, like)
        rectangles.append(Rectangle(queries, keys, bias))
    order = torch.empty(n_tokens, dtype=torch.long, device=like.device)
    if rectangles:
        flat = torch.cat([one.queries.flatten() for one in rectangles])
        order[flat] = torch.arange(n_tokens, device=like.device)
    return Attending(tuple(rectangles), order)


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
    n_branches, (n_rows, n_query) = len(queries), rows.queries.shape
    shared = len(keys) == 1 < n_branches
    q = queries[:, rows.queries]  # [branch row query head d_head]
    k, v = (x[:, rows.keys].transpose(2, 3).flatten(0, 1) for x in (keys, values))
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
