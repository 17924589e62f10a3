"""Token sequences packed so that each distinct prefix is there once.

Invariant: two sequences share a packed token exactly when they agree up to and with that token
(and have the same key), so a causal model computes the same thing for it. Knows no model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int

from layerwise.sweep.requests import Tokens, n_common_tokens


@dataclass(frozen=True)
class Segment:
    """A run of packed tokens without a fork: rows of the attention."""

    queries: tuple[int, ...]  # packed indices of its own tokens, or of some of them, in order
    keys: tuple[int, ...]  # packed indices of all its ancestors' tokens and its own, in order
    sees: tuple[int, ...]  # for each query, how many of the keys it attends to
    depth: int  # how many segments stand above it


@dataclass(slots=True)
class _TokenRun:
    """Packed tokens in a row, behind the last of which others may follow."""

    tokens: Tokens
    indices: tuple[int, ...]
    children: dict[int, _TokenRun] = field(default_factory=dict)

    def fork(self, at: int) -> None:
        """End the run before a token, which begins a run behind it."""
        rest = _TokenRun(self.tokens[at:], self.indices[at:], self.children)
        self.tokens, self.indices = self.tokens[:at], self.indices[:at]
        self.children = {rest.tokens[0]: rest}


class TokenTrie:
    """Sequences packed into one row of tokens, each distinct prefix once."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, dict[int, _TokenRun]] = {}
        self.tokens: list[int] = []  # token ids of the packed tokens
        self.positions: list[int] = []  # their positions in their sequences
        # For each sequence added, the packed indices of its tokens.
        self.paths: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Tokens, key: Hashable = None) -> int:
        """Pack a sequence and return its number, an index into ``paths``."""
        # Whole runs are compared at once: planning adds long prompts many times.
        runs = self._roots.setdefault(key, {})
        path: list[int] = []
        while rest := sequence[len(path) :]:
            run = runs.get(rest[0])
            if run is None:
                n_packed = len(self)
                run = runs[rest[0]] = _TokenRun(rest, tuple(range(n_packed, n_packed + len(rest))))
                self.tokens += rest
                self.positions += range(len(path), len(sequence))
            same = n_common_tokens(run.tokens, rest)
            if same < min(len(run.tokens), len(rest)):
                run.fork(same)
            path += run.indices[:same]
            runs = run.children
        self.paths.append(tuple(path))
        return len(self.paths) - 1

    def segments(self) -> list[Segment]:
        """All forkless runs, ancestors before descendants."""
        segments: list[Segment] = []
        stack: list[tuple[_TokenRun, tuple[int, ...], int]] = [
            (run, (), 0) for root in self._roots.values() for run in root.values()
        ]
        while stack:
            run, above, depth = stack.pop()
            queries = run.indices
            while len(run.children) == 1:
                (run,) = run.children.values()
                queries += run.indices
            keys = above + queries
            sees = tuple(range(len(above) + 1, len(keys) + 1))
            segments.append(Segment(queries, keys, sees, depth))
            stack.extend((child, keys, depth + 1) for child in run.children.values())
        return sorted(segments, key=lambda segment: segment.depth)


@dataclass(frozen=True)
class AttentionRows:
    """Segments of like size as one rectangle for batched attention."""

    # Packed index of each query; padding repeats the first.
    queries: Int[torch.Tensor, "rows n_query"]
    keys: Int[torch.Tensor, "rows n_key"]  # packed index of each key; padding repeats the first
    mask: Bool[torch.Tensor, "rows n_query n_key"]  # which keys a query may see
    valid: Bool[torch.Tensor, "rows n_query"]  # which queries are real
    # Depth of the segments in the trie; rows of one rectangle may differ in it only where ``exact``
    # was not asked for.
    depth: int
    causal: bool  # whether each row is one whole sequence: query i sees keys 0 to i


def restrict(segments: Sequence[Segment], kept: frozenset[int]) -> list[Segment]:
    """Restrict segments to the given queries and the keys that these see."""
    restricted = []
    for segment in segments:
        at = [i for i, index in enumerate(segment.queries) if index in kept]
        if at:
            queries = tuple(segment.queries[i] for i in at)
            sees = tuple(segment.sees[i] for i in at)
            restricted.append(Segment(queries, segment.keys[: max(sees)], sees, segment.depth))
    return restricted


def rectangles(
    segments: Sequence[Segment], *, exact: bool, waste: float = 0.25
) -> list[AttentionRows]:
    """Group segments into rectangles for batched attention."""
    groups: list[list[Segment]] = []
    if exact:
        by_shape: dict[tuple[int, int, int], list[Segment]] = {}
        for segment in segments:
            shape = (segment.depth, len(segment.queries), len(segment.keys))
            by_shape.setdefault(shape, []).append(segment)
        groups = [by_shape[shape] for shape in sorted(by_shape)]
    else:
        used, room, n_query, n_key = 0, 0, 0, 0
        for segment in sorted(segments, key=lambda s: (len(s.queries), len(s.keys)), reverse=True):
            area = len(segment.queries) * len(segment.keys)
            wider = max(n_key, len(segment.keys))
            room = (len(groups[-1]) + 1) * n_query * wider if groups else 0
            if groups and used + area >= (1 - waste) * room:
                groups[-1].append(segment)
                used, n_key = used + area, wider
            else:
                groups.append([segment])
                used, n_query, n_key = area, len(segment.queries), len(segment.keys)
    return [_rectangle(group) for group in groups]


def _rectangle(group: Sequence[Segment]) -> AttentionRows:
    """Pad a group of segments to one rectangle."""
    n_query = max(len(segment.queries) for segment in group)
    n_key = max(len(segment.keys) for segment in group)
    queries = torch.zeros(len(group), n_query, dtype=torch.long)
    keys = torch.zeros(len(group), n_key, dtype=torch.long)
    # A padded query looks at one key, so that its softmax is defined; nothing reads it.
    sees = torch.ones(len(group), n_query, dtype=torch.long)
    valid = torch.zeros(len(group), n_query, dtype=torch.bool)
    for row, segment in enumerate(group):
        own, seen = len(segment.queries), len(segment.keys)
        queries[row] = segment.queries[0]
        keys[row] = segment.keys[0]
        queries[row, :own] = torch.tensor(segment.queries)
        keys[row, :seen] = torch.tensor(segment.keys)
        sees[row, :own] = torch.tensor(segment.sees)
        valid[row, :own] = True
    mask = torch.arange(n_key) < sees[..., None]
    whole = tuple(range(1, n_key + 1))
    causal = all(segment.sees == whole for segment in group)
    return AttentionRows(queries, keys, mask, valid, group[0].depth, causal)
