"""Attention of packed tokens, rectangle by rectangle, as the layers of a model score it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from layerwise.sweep.plans.trie import AttentionRows

from .layout import KeysValues, Layout, SplitKeys
from .step_attention import PartialAttention, Scoring, attend_part

Attended = Float[torch.Tensor, "group output head d_head"]


class PackedAttention:
    """Causal attention of packed queries to the keys of their own sequences."""

    def __init__(self, n_kv: int, group: int, d_head: int, scoring: Scoring) -> None:
        # n_kv: key/value heads; group: query heads that share one.
        # d_head: width of a head.
        self.n_kv, self.group, self.d_head = n_kv, group, d_head
        # How scores come about.
        self.scoring, self.scale, self.cap = scoring, scoring.scale, scoring.cap

    def __call__(
        self, queries: Attended, own: KeysValues, outside: KeysValues | None, layout: Layout
    ) -> Attended:
        """Attention, rectangle by rectangle; all branches of a rectangle as more heads."""
        layout = layout.within(self.scoring.window)
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
            out = self.scoring.merged(parts, self.group).to(q.dtype)
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
        if bias is None and not self.scoring.written_out:
            return F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=self.scale, enable_gqa=self.group > 1
            )
        folded = queries.unflatten(1, (-1, self.group)).flatten(2, 3)
        if self.scoring.written_out:
            bias = _causal_bias(queries, self.group) if bias is None else bias
            part = attend_part(folded, keys, values, self.scale, bias, self.cap)
            out = self.scoring.merged([part], self.group).to(queries.dtype)
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
