"""Cost of a planned sweep: token-passes, arithmetic, and memory.

Nothing here runs a model, and nothing knows how fast a machine is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import ceil
from typing import Any

from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import Generate, Request
from layerwise.sweep.walk.readout import CHUNK

from .branches import Branch
from .plan import ModelShape, SweepPlan, batch_walk
from .trie import TokenTrie, restrict
from .walk_plan import WalkPlan


@dataclass(frozen=True)
class TextLengths:
    """Expected lengths of generated texts, as shares."""

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
        return bool(self.plan.intact) + len(self.plan.branches)

    @cached_property
    def parts(self) -> list[PassBatch]:
        """The trunk, and each group of branches, in each stack."""
        plan, passes = self.plan, Counter[tuple[int, int | None]]()
        for layer, group, n_tokens in plan.passes(self.shape.in_parts):
            passes[plan.stack_index(layer), group] += n_tokens
        parts = []
        for (side, group), n_passes in passes.items():
            carried = None if group is None else plan.groups[group].carried[side]
            pairs = attention_work(plan.sides[side].trie, carried)
            pairs += self._cross_pairs(side, carried=carried is not None)
            n_branches = 1 if group is None else len(plan.groups[group].branches)
            n_tokens = plan.n_carried_tokens(group, side)
            parts.append(PassBatch(side, n_passes, n_tokens, n_branches, pairs))
        return [part for part in parts if part.passes]

    def _cross_pairs(self, stack: int, *, carried: bool) -> int:
        """Query-key pairs of a decoder that looks at encoder outputs."""
        if stack == 0:
            return 0
        return sum(len(path) * len(tokens) for path, tokens in self.plan.looks(carried).items())

    @cached_property
    def cross_kv_tokens(self) -> int:
        """Tokens of encoder outputs whose keys and values are made, over all layers."""
        plan = self.plan
        if not plan.n_encoder:
            return 0
        early = sum(branch.first_layer < plan.n_encoder for branch in plan.branches)
        bare = plan.reads_outputs(self.shape.d_heads // self.shape.n_heads)
        n_decoder = plan.n_layers - plan.n_encoder
        return n_decoder * (1 if bare else 1 + early) * len(plan.sides[0].trie)

    @cached_property
    def pairs(self) -> float:
        """Queries times keys that they meet, prompts and options."""
        return sum((part.passes / part.n_tokens * part.pairs for part in self.parts), start=0.0)

    @cached_property
    def texts(self) -> list[Generate]:
        """Generation requests of each branch."""
        return [r for r in self.requests if isinstance(r, Generate) and r.max_tokens > 1]

    @cached_property
    def decoding_by_branch(self) -> list[tuple[float, float]]:
        """Tokens decoded by each branch (trunk included), and in how many layers."""
        # The first token of a text comes from its prompt.
        branches = []
        n_layers, known, first = self.shape.n_layers, self.lengths, self.shape.n_encoder
        if self.plan.intact:
            branches.append((self._generated_tokens(known.intact), float(n_layers - first)))
        for branch in self.plan.branches:
            own = _layers(branch, max(branch.first_layer, first), n_layers)
            every = _layers(branch, first, n_layers)
            layers = known.agreed * own + (1 - known.agreed) * every
            branches.append((self._generated_tokens(known.changed), layers))
        return branches

    def _generated_tokens(self, share: float) -> float:
        return sum((max(0.0, share * text.max_tokens - 1) for text in self.texts), start=0.0)

    @cached_property
    def text_rows(self) -> float:
        """Tokens that are decoded, expected."""
        return sum((rows for rows, _ in self.decoding_by_branch), start=0.0)

    @cached_property
    def text_passes(self) -> float:
        """Tokens that are decoded times the layers they go through, expected."""
        return sum((rows * layers for rows, layers in self.decoding_by_branch), start=0.0)

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
        longest = sum(self._n_prompt_tokens(text) + text.max_tokens / 2 for text in self.texts)
        return self.text_passes * longest / len(self.texts)

    def _n_prompt_tokens(self, text: Generate) -> int:
        """Tokens before the answer: all that stacks read of a prompt."""
        return sum(map(len, self.shape.request_tokens(text)))

    @cached_property
    def longest_text(self) -> int:
        """Tokens whose keys and values are kept for a text, at most."""
        return max(
            (self._n_prompt_tokens(text) + text.max_tokens + 1 for text in self.texts), default=0
        )

    def capacity(self, memory_budget: int) -> int:
        """Number of texts that are decoded at once."""
        shape = self.shape
        in_layers = shape.n_layers - shape.n_encoder
        row = max(1, 2 * self.longest_text * in_layers * shape.d_kv * shape.itemsize)
        return min(self.n_ends * len(self.texts), max(1, memory_budget // 4 // row))

    def peak_bytes(self, tokens_at_once: int, memory_budget: int) -> int:
        """Residual streams, kept keys and values, texts, what a block works on, and logits."""
        shape, sides = self.shape, self.plan.sides
        n_packed, in_layers = len(sides[-1].trie), shape.n_layers - shape.n_encoder
        streams = sum(part.n_tokens * part.n_branches for part in self.parts)
        streams += 2 * sum(len(side.trie) for side in sides)
        kept = self.cross_kv_tokens // (1 if self.plan.generates else in_layers)
        if self.plan.generates and shape.encoder:
            kept += n_packed * in_layers * (1 + len(self.plan.branches))
        elif self.plan.generates:
            kept += n_packed * (self.plan.block_passes() + in_layers)
        texts = self.capacity(memory_budget) * self.longest_text * in_layers
        wide = 4 * shape.d_model + 3 * (shape.d_heads + shape.d_kv)
        wide += 3 * shape.d_mlp * shape.experts
        pushed = max((part.n_tokens_at_once(tokens_at_once) for part in self.parts), default=0)
        block = min(pushed * wide * shape.itemsize, memory_budget // 8)
        logits = min(CHUNK, self.n_ends * len(self.plan.read)) * shape.d_vocab
        standing = streams * shape.d_model + 2 * (kept + texts) * shape.d_kv
        return (
            standing * shape.itemsize
            + block
            + min(logits * (8 + shape.itemsize), memory_budget // 8)
        )


def _layers(branch: Branch, first: int, n_layers: int) -> int:
    """Number of layers from a first one on that are run for a branch."""
    return sum(not branch.idle(layer) for layer in range(first, n_layers))


@dataclass(frozen=True)
class PassBatch:
    """Tokens that go through blocks together: the trunk's, or a group's."""

    side: int  # number of the stack
    passes: int  # token-passes, over all layers
    n_tokens: int  # tokens of one branch
    n_branches: int
    pairs: int  # queries times keys that they meet, when one branch passes a block once

    def n_tokens_at_once(self, tokens_at_once: int) -> int:
        """Number of tokens that pass a block at once; on average half of the branches are open."""
        room = max(1, tokens_at_once // max(1, self.n_tokens))
        return self.n_tokens * min(ceil(self.n_branches / 2), room)


# Of several sweeps the largest counts, not the sum; of a part of a sweep the same.
_AT_MOST = ("interventions", "peak_bytes", "weight_bytes")
# An operation of a text takes about so many times as long as one of prompts: few tokens at once.
_TIMES_OF_TEXT = 2


@dataclass(frozen=True)
class Cost:
    """The work of one or more sweeps."""

    requests: int = 0  # requests put to the model
    interventions: int = 0  # the most under which a request is put to the model
    walks: int = 0  # walks through the layers
    prompt_token_passes: int = 0  # tokens of prompts and options pushed through a block
    text_token_passes: float = 0.0  # the same for generated tokens, as expected
    most_text_token_passes: int = 0  # the same if every text gets as long as it may
    # Of one cached forward per request and intervention, expected.
    brute_force_token_passes: float = 0.0
    pairs: float = 0.0  # queries times keys that they meet in a block, expected
    rows: int = 0  # positions of prompts and options whose logits are computed
    text_rows: float = 0.0  # the same for generated tokens, expected
    steps: int = 0  # of decoding, one after the other
    # Floating-point operations for prompts, options and readings, expected.
    prompt_flop: float = 0.0
    text_flop: float = 0.0  # the same for generated tokens
    peak_bytes: int = 0  # activations, keys, values and logits, at most at any time
    # All weights that are in memory, with their gradients and the optimizer's memory, where these
    # are more than the model's own; otherwise 0.
    weight_bytes: int = 0

    @property
    def token_passes(self) -> float:
        """Tokens pushed through a block, generated ones as expected."""
        return self.prompt_token_passes + self.text_token_passes

    @property
    def flop(self) -> float:
        """Floating-point operations, expected."""
        return self.prompt_flop + self.text_flop

    @property
    def amount(self) -> float:
        """Operations, those of texts weighed by the time they take: the unit of progress."""
        return self.prompt_flop + _TIMES_OF_TEXT * self.text_flop

    def by_brute_force(self) -> Cost:
        """The same by one forward per request and intervention."""
        prompts = round(self.brute_force_token_passes - self.text_token_passes)
        return replace(self, prompt_token_passes=prompts)

    def scale(self, share: float) -> Cost:
        """The cost of a share of the work."""

        def part(name: str) -> Any:
            whole = getattr(self, name)
            return whole if name in _AT_MOST else type(whole)(whole * share)

        return Cost(**{field.name: part(field.name) for field in fields(self)})

    def __add__(self, other: Cost) -> Cost:
        def both(name: str) -> Any:
            left, right = getattr(self, name), getattr(other, name)
            return max(left, right) if name in _AT_MOST else left + right

        return Cost(**{field.name: both(field.name) for field in fields(self)})


def sweep_cost(
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
    *,
    tokens_at_once: int,
    memory_budget: int,
    lengths: TextLengths = UNKNOWN_LENGTHS,
) -> Cost:
    """Cost of a planned sweep."""
    walks = [
        WalkWork(
            batch_walk(batch, interventions, requests, shape),
            [requests[index] for index in batch.requests],
            shape,
            lengths,
        )
        for batch in plan.batches
    ]
    text_passes = sum((walk.text_passes for walk in walks), start=0.0)
    pairs = sum((walk.pairs for walk in walks), start=0.0)
    text_pairs = sum((walk.text_pairs for walk in walks), start=0.0)
    rows = sum(walk.n_ends * len(walk.plan.read) for walk in walks)
    text_rows = sum((walk.text_rows for walk in walks), start=0.0)
    brute = sum((lengths.more_tokens(i, r) for i in interventions for r in requests), start=0.0)
    n_decoder = shape.n_layers - shape.n_encoder
    of_encoder = (p for w in walks for p in w.parts if p.side < len(w.plan.sides) - 1)
    encoded = sum(part.passes for part in of_encoder)
    looked_at = sum(walk.cross_kv_tokens for walk in walks)
    decoded = plan.token_passes - encoded
    return Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(walks),
        prompt_token_passes=plan.token_passes,
        text_token_passes=text_passes,
        most_text_token_passes=n_decoder * sum(walk.most_text_rows for walk in walks),
        brute_force_token_passes=plan.brute_force_token_passes + n_decoder * brute,
        pairs=pairs + text_pairs,
        rows=rows,
        text_rows=text_rows,
        steps=sum(walk.steps(memory_budget) for walk in walks),
        prompt_flop=matrix_flop(shape, decoded, pairs, rows, encoded, looked_at),
        text_flop=matrix_flop(shape, text_passes, text_pairs, text_rows),
        peak_bytes=max(
            (walk.peak_bytes(tokens_at_once, memory_budget) for walk in walks), default=0
        ),
    )


def unembedding_cost(n_rows: int, shape: ModelShape) -> Cost:
    """The cost of unembedding rows of given residual streams."""
    return Cost(rows=n_rows, prompt_flop=matrix_flop(shape, 0, 0, n_rows))


def matrix_flop(
    shape: ModelShape,
    token_passes: float | int,
    pairs: float | int,
    rows: float | int,
    encoded: int = 0,
    looked_at: int = 0,
) -> float:
    """Floating-point operations of the matrix products; one multiply-add is two."""
    # With d the width of the residual stream, h that of all query heads, g that of all key/value
    # heads, m that of the MLP, over all experts that a token goes through, p its products (2, gated
    # 3), and V the vocabulary,
    #     2 token_passes d (2h + 2g + p m) + 4 pairs h + 2 rows d V
    # for queries, keys, values and output; for the MLP; for scores and their mixtures of values;
    # for the unembedding. Norms, activations, rotations and softmaxes, some per cent of the whole,
    # are left out (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). A decoder that looks at an
    # encoder needs 4 d h more for a token's queries and output there, and for each token of
    # encoder outputs that it looks at; ``encoded`` tokens pass blocks without that.
    mlp = shape.mlp_products * shape.d_mlp * shape.experts
    width = 2 * shape.d_heads + 2 * shape.d_kv + mlp
    of_encoder = 0.0
    if shape.encoder is not None:
        width += 2 * shape.d_heads
        of_encoder = 2 * encoded * (4 * shape.encoder.d_heads + mlp) + 4 * looked_at * shape.d_heads
    return float(
        2 * token_passes * shape.d_model * width
        + 4 * pairs * shape.d_heads
        + 2 * rows * shape.d_model * shape.d_vocab
        + of_encoder * shape.d_model
    )
