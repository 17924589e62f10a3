"""One block of either stack of an encoder-decoder on packed tokens, with changes at its sites.

What a token sees differs from a decoder-only model: encoder tokens see all of their input, and
decoder tokens look at an encoder output, too. Positions may be numbers added to scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from layerwise.models.seq2seq.parts import (
    RelativeBias,
    Seq2SeqAttentionParts,
    Seq2SeqBlockParts,
    StackParts,
)
from layerwise.sweep.changes.layer_edits import NO_EDITS, Activation, LayerEdits
from layerwise.sweep.plans.trie import TokenTrie, restrict

from .attention import ScoreModifiers, attend_in_cache, attend_step
from .hooked_block import WholeBlock
from .layout import KeysValues, Layout, StepLayout, mask_to_bias, span

Heads = Float[torch.Tensor, "branch token head d_head"]
Sources = Float[torch.Tensor, "source key_token _ d_head"]
Bias = Float[torch.Tensor, "1 _ query key"]
# Query tokens and the keys that they attend to, as indices among those that are carried.
Run = tuple[Sequence[int], Sequence[int]]


class EncoderOutputs(KeysValues):
    """Encoder outputs that are attended to themselves, in place of their keys and values."""


@dataclass(frozen=True)
class TokenSelection:
    """Tokens in rows of one length."""

    at: slice | Int[torch.Tensor, " token"]  # a slice, which is a view, if they follow each other
    shape: tuple[int, int]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], device: torch.device) -> TokenSelection:
        """Tokens by row."""
        at = span(list(chain.from_iterable(rows)))
        index = at if isinstance(at, slice) else torch.tensor(at, device=device)
        return cls(index, (len(rows), len(rows[0])))

    def gather(self, x: Float[torch.Tensor, "_ token ..."]) -> torch.Tensor:
        """Their activations, ``[source, row, place, ...]``."""
        return x[:, self.at].unflatten(1, self.shape)


@dataclass(frozen=True)
class Pattern:
    """Pattern of which tokens attend to which, runs of one shape as a rectangle."""

    queries: tuple[TokenSelection, ...]
    keys: tuple[TokenSelection, ...]
    biases: tuple[Bias | None, ...]  # what is added to the scores of all runs of a rectangle
    # Where each token is found in the rectangles' queries, one after the other.
    order: Int[torch.Tensor, " token"]

    @classmethod
    def from_runs(
        cls, runs: Sequence[Run], bias: Callable[[int, int], Bias | None], device: torch.device
    ) -> Pattern:
        """The pattern of some runs, whose bias follows from their shape."""
        shapes: dict[tuple[int, int], list[Run]] = {}
        for run in runs:
            shapes.setdefault((len(run[0]), len(run[1])), []).append(run)
        queries, keys = (
            tuple(
                TokenSelection.from_rows([run[i] for run in group], device)
                for group in shapes.values()
            )
            for i in (0, 1)
        )
        flat = [query for group in shapes.values() for run in group for query in run[0]]
        order = torch.tensor(flat).argsort().to(device)
        return cls(queries, keys, tuple(bias(*shape) for shape in shapes), order)

    def attend(self, queries: Heads, keys: Sources, values: Sources, scale: float) -> Heads:
        """Reading of each head at each token; one source serves all branches."""
        outputs = [
            _rectangle(at.gather(queries), seen.gather(keys), seen.gather(values), bias, scale)
            for at, seen, bias in zip(self.queries, self.keys, self.biases, strict=True)
        ]
        if len(outputs) == 1 and self.queries[0].at == slice(0, queries.shape[1]):
            return outputs[0]
        return torch.cat(outputs, dim=1)[:, self.order]


def _rectangle(
    queries: Float[torch.Tensor, "branch run query head d_head"],
    keys: Float[torch.Tensor, "source run key _ d_head"],
    values: Float[torch.Tensor, "source run key _ d_head"],
    bias: Bias | None,
    scale: float,
) -> Float[torch.Tensor, "branch run_query head d_head"]:
    n_branches, n_runs, n_query, n_heads = queries.shape[:4]
    k, v = (x.transpose(2, 3).flatten(0, 1).expand(-1, n_heads, -1, -1) for x in (keys, values))
    if len(keys) == 1 and bias is None:
        # All branches look at the same keys: they are more queries of them.
        q = queries.permute(1, 3, 0, 2, 4).flatten(2, 3)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        out = out.unflatten(2, (n_branches, n_query)).permute(2, 0, 3, 1, 4)
        return out.flatten(1, 2)
    q = queries.transpose(2, 3).flatten(0, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return out.transpose(1, 2).unflatten(0, (n_branches, n_runs)).flatten(1, 2)


def attention_bias(
    n_query: int, n_key: int, causal: bool, relative: RelativeBias | None, like: torch.Tensor
) -> Bias | None:
    """The bias of the last ``n_query`` of ``n_key`` positions, on all that they may see."""
    ahead = causal and n_query > 1
    if relative is None and not ahead:
        return None
    keys = torch.arange(n_key, device=like.device)
    queries = keys[n_key - n_query :]
    bias = like.new_zeros(1, 1, n_query, n_key)
    if relative is not None:
        bias = bias + relative.position_bias(queries, keys)[None].to(like.dtype)
    return bias.masked_fill(keys > queries[:, None], float("-inf")) if ahead else bias


@dataclass(frozen=True, kw_only=True)
class StackLayout(Layout):
    """The carried tokens of one stack, and what they attend to."""

    own: Pattern  # within the stack
    across: Pattern | None  # from a decoder's tokens to those of encoder outputs


def stack_layout(
    trie: TokenTrie,
    carried: frozenset[int] | None,
    relative: RelativeBias | None,
    looks: Mapping[tuple[int, ...], set[int]] | None,
    like: torch.Tensor,
) -> StackLayout:
    """The layout of a stack's tokens, or of some."""
    # ``looks``: by input which tokens of a decoder look at it; None in an encoder.
    causal = looks is not None
    index = range(len(trie)) if carried is None else sorted(carried)
    place = {packed: i for i, packed in enumerate(index)}
    segments = trie.segments() if carried is None else restrict(trie.segments(), carried)
    runs = [([place[q] for q in s.queries], [place[k] for k in s.keys]) for s in segments]
    at = torch.tensor(index, dtype=torch.long)
    positions = torch.tensor(trie.positions)[at]
    across = None
    if looks is not None:
        seen = [(sorted(place[query] for query in tokens), path) for path, tokens in looks.items()]
        across = Pattern.from_runs(seen, lambda *shape: None, like.device)
    bias = partial(attention_bias, causal=causal, relative=relative, like=like)
    return StackLayout(
        carried=None if carried is None else at.to(like.device),
        outputs=None,
        positions=positions.to(like.device),
        longest=max(trie.positions, default=-1) + 1,
        rows=(),
        order=None,
        n_packed=len(trie),
        own=Pattern.from_runs(runs, bias, like.device),
        across=across,
    )


class StackBlock(WholeBlock):
    """A block's modules applied to packed tokens."""

    def __init__(self, parts: Seq2SeqBlockParts, stack: StackParts) -> None:
        self.parts, self.post_norm = parts, stack.post_norm
        self.scoring = ScoreModifiers(parts.attn.scale, relative=stack.relative)

    def run_packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        overwrite: bool = False,
    ) -> tuple[Activation, KeysValues | None]:
        """As of ``PackedBlock``; ``outside`` are keys and values of encoder outputs."""
        assert isinstance(layout, StackLayout)
        kept: list[KeysValues] = []

        def attend(queries: Heads, own: KeysValues) -> Heads:
            kept.append(own)
            return layout.own.attend(queries, own.keys, own.values, self.parts.attn.scale)

        def look(queries: Heads, cross: Seq2SeqAttentionParts) -> Heads:
            assert outside is not None
            assert layout.across is not None
            pattern, beside = layout.across, (outside.keys, outside.values, cross.scale)
            if not isinstance(outside, EncoderOutputs):
                return pattern.attend(queries, *beside)
            # The keys' matrix is put to the queries, and the values' to what was mixed: q (W m) is
            # (q W) m, and a sum of W m is W of the sum (DeepSeek-AI 2024, arXiv:2405.04434, section
            # 2.1.2). A bias of the keys is the same for all of them, and the softmax takes it off.
            of_heads = cross.n_heads, cross.d_head
            keys, values = (x.weight.unflatten(0, of_heads) for x in (cross.k, cross.v))
            mixed = pattern.attend(torch.einsum("bthd,hdm->bthm", queries, keys), *beside)
            z = torch.einsum("bthm,hdm->bthd", mixed, values)
            return z if cross.v.bias is None else z + cross.v.bias.unflatten(0, of_heads)

        return self._run(resid, attend, look, edits), kept[0] if kept else None

    def step(
        self, resid: Activation, layout: StepLayout, edits: LayerEdits = NO_EDITS
    ) -> tuple[Activation, KeysValues | None]:
        """As of ``PackedBlock``, one new token a row."""
        kept: list[KeysValues] = []

        def attend(queries: Heads, own: KeysValues) -> Heads:
            kept.append(own)
            layout.own.keys[layout.slots, :, layout.index[:, 0]] = own.keys[:, 0]
            layout.own.values[layout.slots, :, layout.index[:, 0]] = own.values[:, 0]
            return attend_step(queries, layout, 1, self.scoring)

        def look(queries: Heads, cross: Seq2SeqAttentionParts) -> Heads:
            assert layout.across is not None
            assert layout.lengths is not None
            places = torch.arange(layout.n_across, device=queries.device)
            bias = mask_to_bias(places < layout.lengths[:, None], queries)[:, None, None]
            q = queries.transpose(1, 2)
            return attend_in_cache(q, layout.across, bias, layout, cross.scale).transpose(1, 2)

        return self._run(resid, attend, look, edits), kept[0] if kept else None

    def cross_keys_values(self, outputs: Float[torch.Tensor, "source token d_model"]) -> KeysValues:
        """Keys and values of encoder outputs, for cross-attention."""
        assert self.parts.cross_attn is not None, "only a decoder looks at an encoder"
        return _keys_values(self.parts.cross_attn, outputs)

    def _run(
        self,
        resid: Activation,
        attend: Callable[[Heads, KeysValues], Heads],
        look: Callable[[Heads, Seq2SeqAttentionParts], Heads],
        edits: LayerEdits,
    ) -> Activation:
        parts = self.parts

        def attention(x: Activation) -> Activation:
            z = attend(_queries(parts.attn, x), _keys_values(parts.attn, x))
            return parts.attn.out(edits.apply_to("z", z).flatten(2))

        def cross_attention(x: Activation) -> Activation:
            cross = parts.cross_attn
            assert cross is not None
            z = look(_queries(cross, x), cross)
            return cross.out(edits.apply_to("cross_z", z).flatten(2))

        def sublayer(
            x: Activation, norm: nn.Module, compute: Any, out: str, after: str
        ) -> Activation:
            """Add a sublayer's output (first site) to the stream (second site)."""
            total = x + edits.output(out, lambda: compute(x if self.post_norm else norm(x)), x)
            return edits.apply_to(after, norm(total) if self.post_norm else total)

        stream = edits.apply_to("resid_pre", resid)
        stream = sublayer(stream, parts.attn_norm, attention, "attn_out", "resid_mid")
        if parts.cross_norm is not None:
            names = ("cross_attn_out", "resid_mid_cross")
            stream = sublayer(stream, parts.cross_norm, cross_attention, *names)
        return sublayer(stream, parts.mlp_norm, parts.mlp, "mlp_out", "resid_post")


def _queries(attention: Seq2SeqAttentionParts, x: Activation) -> Heads:
    return attention.q(x).unflatten(-1, (attention.n_heads, attention.d_head))


def _keys_values(
    attention: Seq2SeqAttentionParts, x: Float[torch.Tensor, "_ _ d_model"]
) -> KeysValues:
    split = (attention.n_heads, attention.d_head)
    return KeysValues(attention.k(x).unflatten(-1, split), attention.v(x).unflatten(-1, split))
