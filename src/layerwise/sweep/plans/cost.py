"""What a planned sweep costs: token-passes, arithmetic, and memory.

Nothing here runs a model, and nothing knows how fast a machine is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import Request

from .plan import ModelShape, SweepPlan, walk_of
from .walk_work import UNKNOWN_LENGTHS as UNKNOWN_LENGTHS
from .walk_work import TextLengths as TextLengths
from .walk_work import WalkWork

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

    def scaled(self, share: float) -> Cost:
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


def cost_of(
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    shape: ModelShape,
    *,
    tokens_at_once: int,
    memory_budget: int,
    lengths: TextLengths = UNKNOWN_LENGTHS,
) -> Cost:
    """What a planned sweep costs."""
    walks = [
        WalkWork(
            walk_of(batch, interventions, requests, shape.n_layers),
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
    return Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(walks),
        prompt_token_passes=plan.token_passes,
        text_token_passes=text_passes,
        most_text_token_passes=shape.n_layers * sum(walk.most_text_rows for walk in walks),
        brute_force_token_passes=plan.brute_force_token_passes + shape.n_layers * brute,
        pairs=pairs + text_pairs,
        rows=rows,
        text_rows=text_rows,
        steps=sum(walk.steps(memory_budget) for walk in walks),
        prompt_flop=matrix_flop(shape, plan.token_passes, pairs, rows),
        text_flop=matrix_flop(shape, text_passes, text_pairs, text_rows),
        peak_bytes=max(
            (walk.peak_bytes(tokens_at_once, memory_budget) for walk in walks), default=0
        ),
    )


def cost_of_reading(n_rows: int, shape: ModelShape) -> Cost:
    """The cost of unembedding rows of given residual streams."""
    return Cost(rows=n_rows, prompt_flop=matrix_flop(shape, 0, 0, n_rows))


def matrix_flop(
    shape: ModelShape, token_passes: float | int, pairs: float | int, rows: float | int
) -> float:
    """Floating-point operations of the matrix products; one multiply-add is two."""
    # With d the width of the residual stream, h that of all query heads, g that of all key/value
    # heads, m that of the MLP, over all experts that a token goes through, p its products (2, gated
    # 3), and V the vocabulary,
    #     2 token_passes d (2h + 2g + p m) + 4 pairs h + 2 rows d V
    # for queries, keys, values and output; for the MLP; for scores and their mixtures of values;
    # for the unembedding. Norms, activations, rotations and softmaxes, some per cent of the whole,
    # are left out (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    mlp = shape.mlp_products * shape.d_mlp * shape.experts
    width = 2 * shape.d_heads + 2 * shape.d_kv + mlp
    return float(
        2 * token_passes * shape.d_model * width
        + 4 * pairs * shape.d_heads
        + 2 * rows * shape.d_model * shape.d_vocab
    )
