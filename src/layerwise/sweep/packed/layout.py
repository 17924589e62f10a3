"""Layout of a batch's carried tokens and their attention: index tensors, no activations.

A layout is made once per batch and set of carried tokens and serves all layers and branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch.nn.utils.rnn import pad_sequence

from layerwise.sweep.plans.trie import AttentionRows, TokenTrie, rectangles, restrict

SCRATCH = 16 * 2**20
# Of longer causal sequences, attention that knows them to be causal does only half the work.
LONG = 256


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of one layer, as its block runner keeps them."""

    # Rotated for the packed runner, unrotated for TransformerLens's own block.
    keys: Float[torch.Tensor, "group token kv_head d_head"]
    values: Float[torch.Tensor, "group token kv_head d_head"]

    def select_members(self, members: Sequence[int] | slice) -> KeysValues:
        """Keys and values of some members of the group."""
        return replace(self, keys=self.keys[members], values=self.values[members])


def span(rows: Sequence[int]) -> slice | list[int]:
    """Rows as a slice, which is a view, where they stand one after the other."""
    numbers = list(rows)
    first, after = numbers[0], numbers[0] + len(numbers)
    return slice(first, after) if numbers == list(range(first, after)) else numbers


@dataclass(frozen=True)
class KeptKeysValues:
    """A cache of keys and values, heads before tokens, so that slices are views."""

    # Of each source (a branch, or a row that is decoded) and token.
    keys: Float[torch.Tensor, "source kv_head token d_head"]
    values: Float[torch.Tensor, "source kv_head token d_head"]  # the same

    @classmethod
    def empty(
        cls, sources: int, tokens: int, n_kv: int, d_head: int, like: torch.Tensor
    ) -> KeptKeysValues:
        """An empty cache for so many sources and tokens."""
        # Zeros: keys that are masked still enter the products, and NaN times zero is NaN.
        shape = (sources, n_kv, tokens, d_head)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def put(
        self,
        sources: Sequence[int],
        own: KeysValues,
        tokens: Int[torch.Tensor, " token"] | None = None,
    ) -> None:
        """Keep the keys and values of some sources, at all tokens or at some."""
        if tokens is None:
            self.keys[sources] = own.keys.transpose(1, 2)
            self.values[sources] = own.values.transpose(1, 2)
            return
        of_sources = torch.tensor(sources, device=tokens.device)[:, None]
        self.keys[of_sources, :, tokens] = own.keys
        self.values[of_sources, :, tokens] = own.values


@dataclass(frozen=True)
class SplitKeys:
    """The keys of a rectangle, split into carried and outside ones."""

    # Every query of a row sees all of the row's keys outside, as they are its ancestors.

    # Packed indices of each row's keys that are not carried; padding repeats 0.
    outside: Int[torch.Tensor, "row outside"]
    # Minus infinity at padding, and outside of a window for each query; None if there is neither.
    outside_bias: Float[torch.Tensor, "row 1 _ outside"] | None
    # The carried keys, as indices into the carried tokens; padding repeats 0.
    own: Int[torch.Tensor, "row own"]
    # 0 where a query may look, minus infinity elsewhere, repeated for the query heads that share
    # keys.
    own_bias: Float[torch.Tensor, "row 1 _ own"]


@dataclass(frozen=True)
class Layout:
    """Index tensors of the carried tokens of a batch."""

    # Packed indices of the carried tokens; None if all are.
    carried: Int[torch.Tensor, " token"] | None
    # Which of the carried tokens leave the block; None if all do. The others only give their keys
    # and values.
    outputs: Int[torch.Tensor, " output"] | None
    positions: Int[torch.Tensor, " token"]  # positions of the carried tokens in their sequences
    longest: int  # one more than the largest position
    # Attention rectangles; queries index the tokens that leave (with ``exact`` the carried ones),
    # keys the packed ones.
    rows: tuple[AttentionRows, ...]
    # Where each token that leaves is found in all rectangles' queries one after the other; None if
    # they are in order already.
    order: Int[torch.Tensor, " output"] | None
    n_packed: int  # how many packed tokens there are
    # Each rectangle's mask as what is added to attention scores, repeated for the query heads that
    # share keys, made once for all layers and branches; None where rows are plain causal sequences
    # so long that it pays to say just that.
    biases: tuple[Float[torch.Tensor, "_ 1 _ _"] | None, ...] = ()
    # Where only some tokens are carried, the keys of each rectangle, split.
    splits: tuple[SplitKeys, ...] = ()
    # Bytes of keys and values that may be copied side by side to attend to them.
    scratch: int = SCRATCH
    packed_positions: Int[torch.Tensor, " packed"] | None = None  # positions of all packed tokens
    group: int = 1  # how many query heads share a key/value head
    # An empty tensor of the number format and device of biases.
    like: Float[torch.Tensor, " 0"] = field(default_factory=lambda: torch.empty(0))
    # By window, the layout in which queries see no further than it.
    windowed: dict[int, Layout] = field(default_factory=dict, repr=False, compare=False)

    def windowed_layout(self, window: int | None) -> Layout:
        """The layout for an attention window of so many tokens."""
        if window is None or self.longest <= window:
            return self
        if window not in self.windowed:
            self.windowed[window] = self._make_windowed(window)
        return self.windowed[window]

    def _make_windowed(self, window: int) -> Layout:
        assert self.packed_positions is not None, "only layouts of make_layout have windows"
        rows = [_rows_to_device(r, self.positions.device) for r in self.rows]
        positions, biases, splits = self.leaving_positions, [], []
        for r in rows:
            apart = positions[r.queries][..., None] - self.packed_positions[r.keys][:, None]
            seen = r.mask & (apart < window)
            # What is padding looks at one key all the same, so that its softmax is defined.
            near = replace(r, mask=torch.where(r.valid[..., None], seen, r.mask))
            if self.carried is None:
                biases.append(_mask_bias(near, self.group, self.like))
            else:
                carried = self.carried
                splits.append(
                    _split_keys(near, carried, self.n_packed, self.group, self.like, True)
                )
        return replace(self, biases=tuple(biases), splits=tuple(splits), windowed={})

    @property
    def leaving_positions(self) -> Int[torch.Tensor, " output"]:
        """Positions of the tokens that leave the block."""
        return self.positions if self.outputs is None else self.positions[self.outputs]

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are carried."""
        return len(self.positions)

    @property
    def n_outputs(self) -> int:
        """Number of tokens that leave the block."""
        return self.n_tokens if self.outputs is None else len(self.outputs)

    def select_outputs(self, activation: Float[torch.Tensor, "_ token ..."]) -> torch.Tensor:
        """An activation at the tokens that leave the block."""
        return activation if self.outputs is None else activation[:, self.outputs]

    def select_trunk(self, activation: Float[torch.Tensor, "_ packed ..."]) -> torch.Tensor:
        """An activation of all packed tokens at those that are carried and leave the block."""
        if self.carried is not None:
            activation = activation[:, self.carried]
        return self.select_outputs(activation)

    def full(
        self, own: KeysValues, outside: KeysValues | None
    ) -> tuple[Float[torch.Tensor, ...], Float[torch.Tensor, ...]]:
        """Keys and values of all packed tokens: the carried ones' own, the others' from outside."""
        if self.carried is None:
            return own.keys, own.values
        assert outside is not None, "a part of the tokens needs the others' keys and values"
        both = []
        for carried, packed in ((own.keys, outside.keys), (own.values, outside.values)):
            merged = packed.expand(len(carried), *packed.shape[1:]).clone()
            merged[:, self.carried] = carried
            both.append(merged)
        return both[0], both[1]


def make_layout(
    trie: TokenTrie,
    carried: frozenset[int] | None,
    *,
    exact: bool,
    like: torch.Tensor,
    outputs: Sequence[int] | None = None,
    scratch: int = SCRATCH,
    group: int = 1,
) -> Layout:
    """The layout of a trie's tokens, or of some of them."""
    device = like.device
    positions = torch.tensor(trie.positions, dtype=torch.long)
    index = torch.arange(len(trie)) if carried is None else torch.tensor(sorted(carried))
    leaving = index if outputs is None else torch.tensor(outputs, dtype=torch.long)
    attending = index if exact else leaving
    segments = trie.segments()
    if len(attending) < len(trie):
        segments = restrict(segments, frozenset(attending.tolist()))
    renamed = torch.full((len(trie),), -1, dtype=torch.long)
    renamed[attending] = torch.arange(len(attending))
    rows = [
        replace(rectangle, queries=renamed[rectangle.queries])
        for rectangle in rectangles(segments, exact=exact)
    ]
    biases, splits = (), ()
    if not exact and carried is None:
        biases = tuple(_bias(r, group, like) for r in rows)
    elif not exact:
        splits = tuple(_split_keys(r, index, len(trie), group, like) for r in rows)
    whole = outputs is None
    return Layout(
        None if carried is None else index.to(device),
        None if whole else torch.searchsorted(index, leaving).to(device),
        positions[index].to(device),
        max(trie.positions, default=-1) + 1,
        tuple(_rows_to_device(row, device) for row in rows),
        _order(rows, len(attending), device),
        len(trie),
        biases,
        splits,
        scratch,
        positions.to(device),
        group,
        like.new_empty(0),
    )


def _rows_to_device(rows: AttentionRows, device: torch.device) -> AttentionRows:
    moved = {name: getattr(rows, name).to(device) for name in ("queries", "keys", "mask", "valid")}
    return replace(rows, **moved)


def _order(
    rows: Sequence[AttentionRows], n_tokens: int, device: torch.device
) -> Int[torch.Tensor, " output"] | None:
    """Place of each token in the rectangles' queries."""
    if not rows:
        return None
    order = torch.empty(n_tokens, dtype=torch.long)
    queries = torch.cat([r.queries.flatten() for r in rows])
    valid = torch.cat([r.valid.flatten() for r in rows])
    order[queries[valid]] = torch.arange(len(queries))[valid]
    in_order = len(queries) == n_tokens and bool((order == torch.arange(n_tokens)).all())
    return None if in_order else order.to(device)


def _bias(
    rows: AttentionRows, group: int, like: torch.Tensor
) -> Float[torch.Tensor, "_ 1 _ _"] | None:
    """0 where a query may look, minus infinity elsewhere."""
    if rows.causal and rows.queries.shape[1] > LONG:
        return None
    return _mask_bias(rows, group, like)


def _mask_bias(
    rows: AttentionRows, group: int, like: torch.Tensor
) -> Float[torch.Tensor, "_ 1 _ _"]:
    """Mask of a rectangle as a term that is added to scores."""
    # Causal rows are all the same.
    seen = rows.mask[:1] if rows.causal else rows.mask
    return mask_to_bias(seen, like).repeat(1, group, 1)[:, None]


def _split_keys(
    rows: AttentionRows,
    carried: Int[torch.Tensor, " token"],
    n_packed: int,
    group: int,
    like: torch.Tensor,
    within: bool = False,
) -> SplitKeys:
    """The keys of a rectangle, split into those that are not carried and those that are."""
    # ``within`` a window queries differ in the keys outside that they see.
    place = torch.full((n_packed,), -1, dtype=torch.long, device=carried.device)
    place[carried] = torch.arange(len(carried), device=carried.device)
    seen = (rows.mask & rows.valid[..., None]).any(dim=1)
    inside = place[rows.keys] >= 0
    outside = [keys[s & ~i] for keys, s, i in zip(rows.keys, seen, inside, strict=True)]
    own = [place[keys[s & i]] for keys, s, i in zip(rows.keys, seen, inside, strict=True)]
    n_outside, n_own = (max(map(len, parts)) for parts in (outside, own))
    n_apart = rows.queries.shape[1] if within else 1
    outside_mask = torch.zeros(len(outside), n_apart, n_outside, dtype=torch.bool)
    own_mask = torch.zeros(len(own), rows.queries.shape[1], n_own, dtype=torch.bool)
    for row, (first, then) in enumerate(zip(outside, own, strict=True)):
        among = rows.mask[row][:, seen[row] & ~inside[row]] if within else True
        outside_mask[row, :, : len(first)] = among
        own_mask[row, :, : len(then)] = rows.mask[row][:, seen[row] & inside[row]]
        # A padded query looks at one key, so that its softmax is defined; nothing reads it.
        own_mask[row, ~rows.valid[row], 0] = True
    padded = not bool(outside_mask.all())
    return SplitKeys(
        pad_sequence(outside, batch_first=True).to(like.device),
        mask_to_bias(outside_mask, like).repeat(1, group if within else 1, 1)[:, None]
        if padded
        else None,
        pad_sequence(own, batch_first=True).to(like.device),
        mask_to_bias(own_mask, like).repeat(1, group, 1)[:, None],
    )


def mask_to_bias(seen: Bool[torch.Tensor, ...], like: torch.Tensor) -> Float[torch.Tensor, ...]:
    """Additive mask: 0 where True, minus infinity elsewhere."""
    seen = seen.to(like.device)
    return like.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values of a prompt's beginning that several rows attend to, without copies."""

    # A view of what the walk kept, for the sources in use.
    keys: Float[torch.Tensor, "source kv_head shared d_head"]
    values: Float[torch.Tensor, "source kv_head shared d_head"]  # the same
    # The rows that attend to each source; padding repeats the first.
    rows: Int[torch.Tensor, "source slot"]
    # For each row, its place in ``rows`` when that is laid out flat.
    place: Int[torch.Tensor, " attending"]
    attending: Int[torch.Tensor, " attending"]  # the rows that ``place`` is about, in order


@dataclass(frozen=True)
class StepLayout:
    """Positions and attended keys of the new tokens of some rows."""

    positions: Int[torch.Tensor, "row new"]  # in their sequences
    longest: int  # one more than the largest position
    # Where their keys and values go in the cache: their position among the row's own.
    index: Int[torch.Tensor, "row new"]
    n_own: int  # one more than the largest index
    slots: Int[torch.Tensor, " row"]  # the rows' places in the cache
    span: slice | None  # the part of the cache that holds these places, where it holds few others
    own: KeptKeysValues  # the cache of each row's own keys and values
    # Beginnings of prompts that are not in the cache, each for other rows.
    shared: tuple[SharedKeys, ...] = ()
    # The cache of the encoder output that each row looks at, and how many tokens that has.
    across: KeptKeysValues | None = None
    lengths: Int[torch.Tensor, " row"] | None = None
    n_across: int = 0  # the most of these
