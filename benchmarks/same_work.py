"""Check that the engine and another way did the same work; a ratio of other work says nothing.

Differences that rounding alone explains are told apart from others by measuring it
(``layerwise.sweep.checks.rounding``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

import torch

from layerwise.models.instance.kinds import Model, before_answer
from layerwise.sweep import (
    Generate,
    Generated,
    Intervention,
    LogLikelihood,
    Scored,
    intact,
    skip,
)
from layerwise.sweep.checks.reference import intervened_logits
from layerwise.sweep.checks.rounding import FLOOR, RoundingError, in_dtype, measure_rounding, worst

LOST = 1.0
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """Distances between log-probabilities.

    Attributes:
        compared: outcomes compared.
        largest: the largest difference of a token's log-probability, in nats.
        by_rounding: outcomes that differ by ``FLOOR`` or more, as rounding explains.
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
    model: Model,
    changes: Sequence[Intervention],
    requests: Sequence[Any],
    engine: Sequence[Sequence[Any]],
    others: Sequence[Sequence[Any]],
    gap: Callable[[Any, Any], float] = token_gap,
) -> Agreement:
    """Compare outcomes under some changes, by change and then request.

    Where some outcome of a change differs by ``FLOOR`` or more, rounding is measured on the model
    under that change: without some layers small differences become large ones.

    Raises:
        SystemExit: a text differs in a token; or under some change a side's largest error is
            more than rounding explains.
    """
    found = Agreement()
    for change, ours, theirs in zip(changes, engine, others, strict=True):
        gaps = [gap(a, b) for a, b in zip(ours, theirs, strict=True)]
        # A gap that is not a number is far, too.
        far = sum(not value < FLOOR for value in gaps)
        if far:
            rounding = measure_rounding(model, change, requests)
            for side, outcomes in (("the engine", ours), ("the other way", theirs)):
                error = worst(gap(a, b) for a, b in zip(outcomes, rounding.truth, strict=True))
                refuse_error(f"{change.id}: {side}", error, rounding)
        found += Agreement(len(gaps), worst(gaps), far)
    return found


def refuse_error(side: str, error: float, rounding: RoundingError) -> None:
    """Accept only an error of a side, in nats, that rounding explains.

    Raises:
        SystemExit: if it is larger.
    """
    if not error <= rounding.error_bound:
        raise SystemExit(
            f"{side} is {error:.2g} nats off, and rounding explains {rounding.error_bound:.2g}: it "
            f"takes plain forwards {rounding.largest:.2g} nats off."
        )


@dataclass(frozen=True)
class Errors:
    """Mean error of both sides in nats; a larger error than ``LOST`` counts as that."""

    engine: float
    other: float


def check_errors(engine: Sequence[float], other: Sequence[float]) -> Errors:
    """Check the engine where rounding is coarse: both sides err, and it must not err notably more.

    Raises:
        SystemExit: the engine's mean error is more than 1.5 times the other's.
    """
    # Some few outcomes that rounding has changed altogether must not decide about all.
    ours, theirs = (fmean(min(error, LOST) for error in side) for side in (engine, other))
    if not ours <= 1.5 * theirs:
        raise SystemExit(f"The engine errs by {ours} nats, the other way by {theirs}.")
    return Errors(ours, theirs)


def check_texts(
    model: Model,
    layers: Sequence[int | None],
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
        How many texts part, each at tokens that are equally likely in float64 but for what
        rounding explains.

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
            begun = text[:same] if token is None else (*text[:same], token)
            if token is None or not is_tie(
                model, layer, asked, begun, shortfalls(exact, layer, asked, begun)[-1]
            ):
                raise SystemExit(f"skip:layer={layer}: texts part without a tie, {ours}, {theirs}.")
    return len(parted)


def is_tie(model: Model, layer: int | None, asked: Any, tokens: Tokens, shortfall: float) -> bool:
    """True if rounding explains that a token was taken for the likeliest one.

    Args:
        model: the model.
        layer: the layer that was skipped; None if none was.
        asked: the request.
        tokens: what was written or scored, that token among it.
        shortfall: by how many nats the token falls short of the likeliest one in float64.
    """
    if shortfall < FLOOR:
        return True
    scored = LogLikelihood(asked.context, tokens, asked.source)
    return shortfall <= measure_rounding(model, _skip_or_intact(layer), [scored]).error_bound


def _in_common(one: Tokens, other: Tokens) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)


@torch.inference_mode()
def shortfalls(model: Model, layer: int | None, asked: Any, tokens: Tokens) -> list[float]:
    """By how many nats each token of a text falls short of the likeliest one there."""
    logits = intervened_logits(model, _skip_or_intact(layer), asked, tokens[:-1])
    logprobs = logits[len(before_answer(model, asked.context)) - 1 :].log_softmax(-1)
    chosen = logprobs[torch.arange(len(tokens)), torch.tensor(tokens)]
    return (logprobs.amax(-1) - chosen).tolist()


def _skip_or_intact(layer: int | None) -> Intervention:
    return intact() if layer is None else skip(layer)
