"""Whether the engine and another way did the same work; a ratio of different work says nothing.

Differences that rounding alone explains are told apart from others by arithmetic of more digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from hooked_ways import score_batched, skip_hooks
from transformer_lens import HookedTransformer

from layerwise.sweep import Generate, Generated, Intervention, Scored

NATS = 1e-4
LOST = 1.0
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """How far apart log-probabilities were.

    Attributes:
        compared: outcomes compared.
        largest: the largest difference of a token's log-probability, in nats.
        by_rounding: outcomes that differ by ``NATS`` or more, the engine's errors being no
            larger than rounding makes the other side's.
    """

    compared: int = 0
    largest: float = 0.0
    by_rounding: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.compared + other.compared,
            max(self.largest, other.largest),
            self.by_rounding + other.by_rounding,
        )


def token_gap(one: Any, other: Any) -> float:
    """The largest difference of a token's log-probability, in nats; texts must be the same."""
    if isinstance(one, Scored):
        pairs = zip(one.token_logprobs, other.token_logprobs, strict=True)
        return max(abs(a - b) for a, b in pairs)
    assert isinstance(one, Generated)
    if one.tokens != other.tokens:
        raise SystemExit(f"Texts differ: {one.text!r}, {other.text!r}.")
    return 0.0


def mean_gap(one: Any, other: Any) -> float:
    """The difference of a continuation's log-probability in nats a token, where sums are known."""
    return abs(one.logprob - other.logprob) / max(
        len(one.token_logprobs), len(other.token_logprobs)
    )


def check(
    model: HookedTransformer,
    changes: Sequence[Intervention],
    requests: Sequence[Any],
    engine: Sequence[Sequence[Any]],
    others: Sequence[Sequence[Any]],
    gap: Callable[[Any, Any], float] = token_gap,
) -> Agreement:
    """Compare outcomes of the intact model and of skipped layers, by change and then request.

    Where some outcome of a change differs by ``NATS`` or more, all of its outcomes are computed
    again in float64 by plain hooked forwards: some layers cannot be skipped without small
    differences becoming large, and then the largest errors of both sides are of one size.

    Raises:
        SystemExit: a text differs in a token; or under some change the engine's largest error
            is more than ``NATS`` and more than three times the other side's.
    """
    found, exact = Agreement(), None
    for change, ours, theirs in zip(changes, engine, others, strict=True):
        gaps = [gap(a, b) for a, b in zip(ours, theirs, strict=True)]
        # A gap that is not a number is far, too.
        far = sum(not value < NATS for value in gaps)
        if far:
            exact = exact or in_dtype(model, torch.float64)
            (truth,) = score_batched(exact, [change.layer], [[asked] for asked in requests])
            errors = [max(map(gap, side, truth)) for side in (ours, theirs)]
            if not errors[0] <= max(NATS, 3 * errors[1]):
                raise SystemExit(f"{change.id}: the engine is {errors[0]} nats off.")
        found += Agreement(len(gaps), max(gaps), far)
    return found


def in_dtype(model: HookedTransformer, dtype: torch.dtype) -> HookedTransformer:
    """A copy with the very same weights that computes in ``dtype``."""
    return copy.deepcopy(model).to(dtype, print_details=False)


@dataclass(frozen=True)
class Errors:
    """Mean error of both sides in nats; a larger error than ``LOST`` counts as that."""

    engine: float
    other: float


def check_errors(engine: Sequence[float], other: Sequence[float]) -> Errors:
    """Where rounding is coarse, both sides err; the engine must not err notably more.

    Raises:
        SystemExit: the engine's mean error is more than 1.5 times the other's.
    """
    # Some few outcomes that rounding has changed altogether must not decide about all.
    ours, theirs = (fmean(min(error, LOST) for error in side) for side in (engine, other))
    if not ours <= 1.5 * theirs:
        raise SystemExit(f"The engine errs by {ours} nats, the other way by {theirs}.")
    return Errors(ours, theirs)


def check_texts(
    model: HookedTransformer,
    layers: Sequence[int],
    requests: Sequence[Generate],
    engine: Sequence[Sequence[Tokens]],
    other: Sequence[Sequence[Tokens]],
    end: int | None,
) -> int:
    """Compare greedy texts, by skipped layer and then request.

    Args:
        model: the model.
        layers: the layers that were skipped.
        requests: what was asked.
        engine: new tokens without the end token.
        other: the same by another way.
        end: the end token.

    Returns:
        How many texts part, each at tokens that are equally likely but for ``NATS`` in float64.

    Raises:
        SystemExit: texts part elsewhere.
    """
    pairs = [(layer, asked) for layer in layers for asked in requests]
    parted = [
        (*pair, ours, theirs)
        for pair, ours, theirs in zip(pairs, chain(*engine), chain(*other), strict=True)
        if ours != theirs
    ]
    exact = in_dtype(model, torch.float64) if parted else model
    for layer, asked, ours, theirs in parted:
        same = _in_common(ours, theirs)
        for text in (ours, theirs):
            # Where a text is over, its next token was the end token.
            token = text[same] if same < len(text) else end
            short = (
                None if token is None else shortfalls(exact, layer, asked, (*text[:same], token))
            )
            if short is None or not short[-1] < NATS:
                raise SystemExit(f"skip:layer={layer}: texts part without a tie, {ours}, {theirs}.")
    return len(parted)


def _in_common(one: Tokens, other: Tokens) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)


@torch.inference_mode()
def shortfalls(
    model: HookedTransformer, layer: int, asked: Generate, tokens: Tokens
) -> list[float]:
    """By how many nats each token of a text falls short of the likeliest one there."""
    given = torch.tensor([asked.context + tokens[:-1]], device=model.W_E.device)
    with model.hooks(fwd_hooks=skip_hooks(layer)):
        logprobs = model(given)[0, len(asked.context) - 1 :].log_softmax(-1)
    chosen = logprobs[torch.arange(len(tokens)), torch.tensor(tokens)]
    return (logprobs.amax(-1) - chosen).tolist()
