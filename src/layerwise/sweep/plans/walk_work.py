"""The work of one planned walk, and of decoding what it prepares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import Generate, Request
from layerwise.sweep.walk.readout import CHUNK

from .branches import Branch
from .plan import ModelShape
from .trie import TokenTrie, restrict
from .walk_plan import GroupPlan, WalkPlan


@dataclass(frozen=True)
class TextLengths:
    """How long generated texts are expected to be, as shares."""

    intact: float = 0.5  # mean share of ``max_tokens`` that the intact model writes
    changed: float = 0.5  # the same under interventions
    # Mean share of a changed model's tokens that come while its text is still the intact model's;
    # so long layers before the change are run once for both.
    agreed: float = 0.5

    def more_tokens(self, intervention: Intervention, request: Request) -> float:
        """Tokens of a text after its first, which comes from the prompt."""
        if not isinstance(request, Generate):
            return 0.0
        share = self.changed if intervention.edits else self.intact
        return max(0.0, share * request.max_tokens - 1)


UNKNOWN_LENGTHS = TextLengths()


def attention_work(trie: TokenTrie, carried: frozenset[int] | None = None) -> int:
    """Query-key pairs of packed tokens."""
    # Each run of tokens without a fork is one rectangle, its tokens by all keys up to its last.
    segments = trie.segments()
    if carried is not None:
        segments = restrict(segments, carried)
    return sum(len(segment.queries) * len(segment.keys) for segment in segments)


@dataclass(frozen=True)
class WalkWork:
    """The work of one walk through the layers, and of decoding what it prepared."""

    plan: WalkPlan
    requests: Sequence[Request]
    shape: ModelShape
    lengths: TextLengths

    @cached_property
    def n_ends(self) -> int:
        """Branches at whose end something is read, the trunk among them if it is asked for."""
        return bool(self.plan.intact) + sum(len(g.branches) for g in self.plan.groups)

    @cached_property
    def parts(self) -> tuple[PassBatch, ...]:
        """The trunk, and each group of branches."""
        plan = self.plan
        layers = range(plan.trunk_until)
        trunk = sum(plan.trunk_tokens(layer, self.shape.in_parts) for layer in layers)
        rest = plan.token_passes(self.shape.in_parts) - trunk
        weights = [_weight(group, plan) for group in plan.groups]
        parts = [PassBatch(trunk, len(plan.trie), 1, attention_work(plan.trie))]
        for group, weight in zip(plan.groups, weights, strict=True):
            n_tokens = group.n_tokens(len(plan.trie))
            pairs = attention_work(plan.trie, group.carried)
            share = rest * weight / max(1, sum(weights))
            parts.append(PassBatch(share, n_tokens, len(group.branches), pairs))
        return tuple(part for part in parts if part.passes)

    @cached_property
    def pairs(self) -> float:
        """Queries times keys that they meet, prompts and options."""
        return sum((part.passes / part.n_tokens * part.pairs for part in self.parts), start=0.0)

    @cached_property
    def texts(self) -> list[Generate]:
        """Generation requests of each branch."""
        return [r for r in self.requests if isinstance(r, Generate) and r.max_tokens > 1]

    @cached_property
    def of_branch(self) -> list[tuple[float, float]]:
        """Tokens decoded by each branch (trunk included), and in how many layers."""
        # The first token of a text comes from its prompt.
        branches = []
        n_layers, known = self.shape.n_layers, self.lengths
        if self.plan.intact:
            branches.append((self._more(known.intact), float(n_layers)))
        for group in self.plan.groups:
            for branch in group.branches:
                own, every = (
                    _layers(branch, branch.first_layer, n_layers),
                    _layers(branch, 0, n_layers),
                )
                layers = known.agreed * own + (1 - known.agreed) * every
                branches.append((self._more(known.changed), layers))
        return branches

    def _more(self, share: float) -> float:
        return sum((max(0.0, share * text.max_tokens - 1) for text in self.texts), start=0.0)

    @cached_property
    def text_rows(self) -> float:
        """Tokens that are decoded, expected."""
        return sum((rows for rows, _ in self.of_branch), start=0.0)

    @cached_property
    def text_passes(self) -> float:
        """Tokens that are decoded times the layers they go through, expected."""
        return sum((rows * layers for rows, layers in self.of_branch), start=0.0)

    @cached_property
    def most_text_rows(self) -> int:
        """Tokens that are decoded if every text gets as long as it may."""
        return self.n_ends * sum(text.max_tokens - 1 for text in self.texts)

    def steps(self, memory_budget: int) -> int:
        """Steps of decoding: as many as the longest text may need, since of many texts some do."""
        # More if not all texts find room at once.
        if not self.text_rows:
            return 0
        longest = max(text.max_tokens - 1 for text in self.texts)
        return max(longest, ceil(self.text_rows / self.capacity(memory_budget)))

    @cached_property
    def text_pairs(self) -> float:
        """Queries times keys that they meet in decoding, expected."""
        if not self.texts:
            return 0.0
        longest = sum(len(text.context) + text.max_tokens / 2 for text in self.texts)
        return self.text_passes * longest / len(self.texts)

    def capacity(self, memory_budget: int) -> int:
        """How many texts are decoded at once."""
        longest = max((len(text.context) + text.max_tokens + 1 for text in self.texts), default=0)
        shape = self.shape
        row = max(1, 2 * longest * shape.n_layers * shape.d_kv * shape.itemsize)
        return min(self.n_ends * len(self.texts), max(1, memory_budget // 4 // row))

    def peak_bytes(self, tokens_at_once: int, memory_budget: int) -> int:
        """Residual streams, kept keys and values, texts, what a block works on, and logits."""
        shape, n_packed = self.shape, len(self.plan.trie)
        streams = sum(part.n_tokens * part.n_branches for part in self.parts) + 2 * n_packed
        longest = max((len(text.context) + text.max_tokens + 1 for text in self.texts), default=0)
        kept = n_packed * (self.plan.block_passes() + shape.n_layers) if self.plan.generates else 0
        texts = self.capacity(memory_budget) * longest * shape.n_layers
        wide = 4 * shape.d_model + 3 * (shape.d_heads + shape.d_kv)
        wide += 3 * shape.d_mlp * shape.experts
        pushed = max((part.pushed(tokens_at_once) for part in self.parts), default=0)
        block = min(pushed * wide * shape.itemsize, memory_budget // 8)
        logits = min(CHUNK, self.n_ends * len(self.plan.read)) * shape.d_vocab
        standing = streams * shape.d_model + 2 * (kept + texts) * shape.d_kv
        return (
            standing * shape.itemsize
            + block
            + min(logits * (8 + shape.itemsize), memory_budget // 8)
        )


def _weight(group: GroupPlan, plan: WalkPlan) -> int:
    """About how many tokens a group pushes through blocks."""
    layers = (_layers(branch, branch.first_layer, plan.n_layers) for branch in group.branches)
    return group.n_tokens(len(plan.trie)) * sum(layers)


def _layers(branch: Branch, first: int, n_layers: int) -> int:
    """How many layers from a first one on are run for a branch."""
    return sum(not branch.idle(layer) for layer in range(first, n_layers))


@dataclass(frozen=True)
class PassBatch:
    """Tokens that go through blocks together: the trunk's, or a group's."""

    passes: float | int  # token-passes, over all layers
    n_tokens: int  # tokens of one branch
    n_branches: int
    pairs: int  # queries times keys that they meet, when one branch passes a block once

    def pushed(self, tokens_at_once: int) -> int:
        """How many tokens pass a block at once; on average half of the branches are open."""
        room = max(1, tokens_at_once // max(1, self.n_tokens))
        return self.n_tokens * min(ceil(self.n_branches / 2), room)
