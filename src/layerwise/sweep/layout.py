"""Where the carried tokens of a batch lie, and how they attend: index tensors, no activations.

A layout is made once per batch and set of carried tokens and serves all layers and branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from .trie import AttentionRows, TokenTrie, rectangles, restrict


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one layer, as its block runner keeps them.

    Attributes:
        keys: rotated for the packed runner, unrotated for TransformerLens's own block.
        values: values.
    """

    keys: Float[torch.Tensor, "group token kv_head d_head"]
    values: Float[torch.Tensor, "group token kv_head d_head"]


@dataclass(frozen=True)
class Layout:
    """The carried tokens of a batch.

    Attributes:
        carried: packed indices of the carried tokens; None if all are.
        positions: their positions in their sequences.
        rows: attention rectangles; queries index the carried tokens, keys the packed ones.
        n_packed: how many packed tokens there are.
        biases: each rectangle's mask as what is added to attention scores, repeated for the
            query heads that share a key/value head; made once, used by every layer and branch.
    """

    carried: Int[torch.Tensor, " token"] | None
    positions: Int[torch.Tensor, " token"]
    rows: tuple[AttentionRows, ...]
    n_packed: int
    biases: tuple[Float[torch.Tensor, "_ _ _"], ...] = ()

    @property
    def n_tokens(self) -> int:
        """How many tokens are carried."""
        return len(self.positions)

    def full(
        self, own: KeysValues, outside: KeysValues | None
    ) -> tuple[Float[torch.Tensor, ...], Float[torch.Tensor, ...]]:
        """Keys and values of all packed tokens: the carried ones' own, the others' from outside."""
        if self.carried is None:
            return own.keys, own.values
        assert outside is not None, "a part of the tokens needs the others' keys and values"
        both = []
        for mine, theirs in ((own.keys, outside.keys), (own.values, outside.values)):
            merged = theirs.expand(len(mine), *theirs.shape[1:]).clone()
            merged[:, self.carried] = mine
            both.append(merged)
        return both[0], both[1]


def make_layout(
    trie: TokenTrie,
    carried: frozenset[int] | None,
    *,
    exact: bool,
    like: torch.Tensor,
    group: int = 1,
) -> Layout:
    """The layout of a trie's tokens, or of some of them.

    Args:
        trie: the packed sequences.
        carried: packed indices, closed under descendants; None for all.
        exact: no padding within a rectangle, and no biases.
        like: gives device and number format.
        group: how many query heads share a key/value head.
    """
    device = like.device
    segments = trie.segments()
    positions = torch.tensor(trie.positions, dtype=torch.long)
    if carried is None:
        index, renamed = None, None
    else:
        segments = restrict(segments, carried)
        index = torch.tensor(sorted(carried), dtype=torch.long)
        positions = positions[index]
        renamed = torch.full((len(trie),), -1, dtype=torch.long)
        renamed[index] = torch.arange(len(index))
    rows = []
    for rectangle in rectangles(segments, exact=exact):
        queries = rectangle.queries if renamed is None else renamed[rectangle.queries]
        rows.append(
            AttentionRows(
                queries.to(device),
                rectangle.keys.to(device),
                rectangle.mask.to(device),
                rectangle.valid.to(device),
                rectangle.depth,
            )
        )
    biases = () if exact else tuple(_bias(rectangle.mask, group, like) for rectangle in rows)
    carried_index = None if index is None else index.to(device)
    return Layout(carried_index, positions.to(device), tuple(rows), len(trie), biases)


def _bias(
    mask: Bool[torch.Tensor, "row n_query n_key"], group: int, like: torch.Tensor
) -> Float[torch.Tensor, "row grouped_query n_key"]:
    """0 where a query may look, minus infinity elsewhere."""
    bias = like.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    return bias.repeat(1, group, 1)
