"""Stopwatches for the engine's parts: a block's packed tokens and steps, the unembedding.

Every figure is a median of repeats, each on another block than the one before, so that weights
come from memory as in a sweep. What the figures are for is in ``calibration``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from transformer_lens import HookedTransformer

from layerwise.models.kinds import Model, heads_per_key

from ._curves import Curve, growing, share
from ._runner import BlockRunner, KeptKeysValues, StepLayout
from .blocks import block_runners
from .layout import Layout, make_layout
from .readout import CHUNK, score_rows
from .trie import TokenTrie, restrict

TOKENS = (8, 64, 256, 512, 1024, 2048, 4096)
ROWS = (1, 4, 16, 64, 256)
SHORT, LONG, END = 64, 1024, 8
REPEATS = 3
# Measured however little time there is: what larger sizes take is in proportion to one at which
# arithmetic takes most of the time, not reading weights.
FAIR_TOKENS, FAIR_ROWS = 256, 16
# A run that was faster than so many seconds is made again in any case, for the first may be slow.
QUICK = 0.05
# Keys and values that decoding is tried on take at most so many bytes.
CACHE_BYTES = 2**26


def attention_work(trie: TokenTrie, carried: frozenset[int] | None = None) -> tuple[int, int]:
    """What attending costs over packed tokens: query-key pairs, and keys that are gathered.

    Each run of tokens without a fork is one rectangle, its tokens by all keys up to its last.

    Args:
        trie: the packed sequences.
        carried: packed indices of the tokens that attend; None for all.
    """
    segments = trie.segments()
    if carried is not None:
        segments = restrict(segments, carried)
    pairs = sum(len(segment.queries) * len(segment.keys) for segment in segments)
    return pairs, sum(len(segment.keys) for segment in segments)


@dataclass(frozen=True)
class Packed:
    """Packed tokens that a block can be timed on.

    Attributes:
        layout: how they lie.
        n_tokens: how many.
        pairs: query-key pairs of their attention.
        keys: keys that are gathered for it.
    """

    layout: Layout
    n_tokens: int
    pairs: int
    keys: int


class Stopwatch:
    """Times what both kinds of models have, within a limit of time."""

    def __init__(self, model: Model, seconds: float) -> None:
        self.model: Any = model
        self.cfg: Any = model.cfg
        self.like, self.turn = model.W_E, count()
        self.end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds left to measure in."""
        return self.end - time.perf_counter()

    def median(self, run: Callable[[], object], repeats: int = REPEATS) -> float:
        """Median seconds, which a slow first time does not change; less often if time is short."""
        spent = [self._once(run)]
        if spent[0] < QUICK:
            spent.append(self._once(run))
        while len(spent) < repeats and self.left > spent[-1]:
            spent.append(self._once(run))
        return statistics.median_low(spent)

    def _once(self, run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        if self.like.device.type in ("cuda", "mps"):
            getattr(torch, self.like.device.type).synchronize()
        return time.perf_counter() - started

    def curve(self, sizes: Sequence[int], run: Callable[[int], float], fair: int) -> Curve:
        """Seconds of each size that there is time for.

        Args:
            sizes: at least two, in ascending order.
            run: measures one of them.
            fair: a size that larger ones are told from; it and the first are measured in any case,
                for nothing can be told from one point.
        """
        points: list[tuple[int, float]] = []
        fair, spent = min(fair, sizes[-1]), 0.0
        for size in sizes:
            short = bool(points) and self.left < 2 * spent
            if short and points[-1][0] >= fair:
                break
            if short and size < fair:
                continue
            started = self.left
            points.append((size, run(size)))
            spent = started - self.left
        return growing(points)

    def unembedding(self) -> Curve:
        """Seconds to score growing numbers of rows."""

        def run(n_rows: int) -> float:
            rows = torch.arange(n_rows, device=self.like.device)
            resid, tokens = self._resid(n_rows), torch.zeros_like(rows)
            return self.median(lambda: score_rows(self.model, resid, rows, tokens))

        return self.curve((1, FAIR_ROWS, CHUNK), run, FAIR_ROWS)

    def flop_per_second(self, n_tokens: int) -> float:
        """Rate of the MLP's first matrix product, or of one as wide as the residual stream."""
        width = self.cfg.d_model if self.cfg.attn_only else self.cfg.d_mlp
        weight, resid = self.like.new_ones(width, self.cfg.d_model), self._resid(n_tokens)
        spent = self.median(lambda: torch.nn.functional.linear(resid, weight))
        return 2 * n_tokens * width * self.cfg.d_model / spent

    def _resid(self, n_tokens: int) -> torch.Tensor:
        values = torch.linspace(-1, 1, self.cfg.d_model, device=self.like.device)
        return values.to(self.like.dtype).repeat(n_tokens, 1)


class Bench(Stopwatch):
    """Times the engine's parts on one decoder-only model."""

    def __init__(self, model: HookedTransformer, seconds: float) -> None:
        super().__init__(model, seconds)
        self.runners = block_runners(model)

    def apart(self, n_tokens: int, length: int = SHORT) -> Packed:
        """So many tokens in sequences that share nothing."""
        length = min(length, n_tokens, self.cfg.n_ctx)
        trie = TokenTrie()
        for number in range(max(1, n_tokens // length)):
            trie.add((0,) * length, number)
        return self._packed(trie)

    def shared(self, n_tokens: int) -> Packed:
        """About so many tokens, most of them in short ends of one context."""
        context = min(SHORT, self.cfg.n_ctx // 2)
        length = min(END, self.cfg.n_ctx - context)
        trie = TokenTrie()
        for end in range(1, 1 + max(1, (n_tokens - context) // length)):
            trie.add((0,) * context + (end,) * length)
        return self._packed(trie)

    def _packed(self, trie: TokenTrie) -> Packed:
        exact, group = self.runners[0].exact, heads_per_key(self.cfg)
        layout = make_layout(trie, None, exact=exact, like=self.like, group=group)
        return Packed(layout, len(trie), *attention_work(trie))

    def push(self, packed: Packed, repeats: int = REPEATS) -> float:
        """Seconds to push packed tokens through a block."""
        resid = self._resid(packed.n_tokens)[None]
        return self.median(lambda: self._next().packed(resid, packed.layout), repeats)

    def attention(self) -> tuple[float, float]:
        """Seconds per query-key pair, and per gathered key, of one block.

        Found from pushes of as many tokens in short sequences, in long ones, and in short ends
        of one context: what they take more than the first is the attention's.
        """
        n_tokens = min(LONG, 4 * self.cfg.n_ctx)
        base, long, ends = self.apart(n_tokens), self.apart(n_tokens, LONG), self.shared(n_tokens)
        seconds, of_long, of_ends = (self.push(packed) for packed in (base, long, ends))
        scale = long.n_tokens / base.n_tokens
        pair = share(of_long - scale * seconds, long.pairs - scale * base.pairs)
        scale = ends.n_tokens / base.n_tokens
        attending = pair * (ends.pairs - scale * base.pairs)
        key = share(of_ends - scale * seconds - attending, ends.keys - scale * base.keys)
        return pair, key

    def block(self, pair: float, key: float) -> Curve:
        """Seconds of a block for growing numbers of tokens, their attention taken off."""

        def run(n_tokens: int) -> float:
            packed = self.apart(n_tokens)
            spent = self.push(packed)
            bare = max(spent - pair * packed.pairs - key * packed.keys, spent / 2)
            return bare * n_tokens / packed.n_tokens

        return self.curve(TOKENS, run, FAIR_TOKENS)

    def step(self) -> tuple[Curve, float]:
        """Seconds of a decoding step for growing numbers of rows, and per query-key pair."""
        n_kv = self.cfg.n_key_value_heads or self.cfg.n_heads
        short = min(SHORT, self.cfg.n_ctx)
        long = min(8 * short, self.cfg.n_ctx)

        def run(n_rows: int, length: int = short) -> float:
            cache = KeptKeysValues.empty(n_rows, length, self.cfg, like=self.like)
            last = torch.full((n_rows, 1), length - 1, device=self.like.device)
            rows = torch.arange(n_rows, device=self.like.device)
            layout = StepLayout(last, length, last, length, rows, slice(0, n_rows), cache)
            resid = self._resid(n_rows)[:, None]
            return self.median(lambda: self._next().step(resid, layout))

        row_bytes = 2 * short * n_kv * self.cfg.d_head * self.like.element_size()
        sizes = [n_rows for n_rows in ROWS if n_rows * row_bytes <= CACHE_BYTES]
        whole = self.curve(sizes if len(sizes) > 1 else ROWS[:2], run, FAIR_ROWS)
        n_rows, seconds = whole[len(whole) // 2]
        pair = share(run(n_rows, long) - seconds, n_rows * (long - short))
        return growing([(n, max(s - pair * n * short, s / 2)) for n, s in whole]), pair

    def _next(self) -> BlockRunner:
        return self.runners[next(self.turn) % len(self.runners)]
