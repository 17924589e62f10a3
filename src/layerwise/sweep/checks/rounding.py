"""Rounding error of the outcomes of a change, measured on the model itself.

The engine may differ from the reference by this error and no more. No fixed number fits all
changes: without some layers of a deep model small differences grow, and their size depends on the
processor. Nothing of the engine is used here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from layerwise.models.conversion.rounding import MULTIPLE, disturbances
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import with_numbers
from layerwise.models.instance.kinds import Model, to_dtype_device
from layerwise.sweep.changes.interventions import Intervention
from layerwise.sweep.requests import LogLikelihood, Outcome, Scored, Stopper

from .reference import reference_outcome

FLOOR = 1e-4
"""An error below this, in nats, is never called more than rounding."""


@dataclass(frozen=True)
class RoundingError:
    """Outcomes of a change in float64, and the rounding error of plain forwards."""

    truth: tuple[Scored, ...]  # outcomes of the same weights computed in float64, by request
    # Largest error of a token's log-probability, in nats, of plain hooked forwards in the model's
    # number format: one with its weights, ``DRAWS`` with disturbed ones.
    largest: float

    @property
    def error_bound(self) -> float:
        """The largest error that rounding explains, in nats."""
        return max(FLOOR, MULTIPLE * self.largest)

    def error(self, outcomes: Sequence[Outcome]) -> float:
        """Largest error of a token's log-probability, in nats, of outcomes by request."""
        pairs = zip(outcomes, self.truth, strict=True)
        return worst(distance(scored, exact) for scored, exact in pairs)


@torch.inference_mode()
def measure_rounding(
    model: Model, change: Intervention, requests: Sequence[LogLikelihood], seed: int = 0
) -> RoundingError:
    """Measure the rounding error of log-probabilities of requests under a change."""
    # Forwards with weights disturbed in their last bit show how much a change amplifies rounding
    # (``perturb_weights``). It costs ``DRAWS`` + 2 plain forwards a request, and memory for the
    # weights once more in float64.
    exact = RoundingError(_score_requests(in_dtype(model, torch.float64), change, requests), 0.0)
    plain = chain([model], disturbances(model, seed))
    errors = (exact.error(_score_requests(outcomes, change, requests)) for outcomes in plain)
    return replace(exact, largest=worst(errors))


def _score_requests(
    model: Model, change: Intervention, requests: Sequence[LogLikelihood]
) -> tuple[Scored, ...]:
    never = Stopper(None, frozenset())  # Nothing is written here.
    outcomes = [reference_outcome(model, change, request, never) for request in requests]
    return tuple(outcome for outcome in outcomes if isinstance(outcome, Scored))


def in_dtype(model: Model, dtype: torch.dtype) -> Model:
    """A copy with the very same weights that computes in ``dtype``."""
    copied = copy.deepcopy(model)
    return to_dtype_device(
        with_numbers(copied) if isinstance(copied, DecoderModel) else copied, dtype
    )


def distance(outcomes: Outcome, other: Outcome) -> float:
    """Largest difference of a token's log-probability, in nats; NaN if one is NaN."""
    assert isinstance(outcomes, Scored)
    assert isinstance(other, Scored)
    pairs = zip(outcomes.token_logprobs, other.token_logprobs, strict=True)
    return worst(abs(a - b) for a, b in pairs)


def worst(values: Iterable[float]) -> float:
    """The largest number; NaN if any is NaN."""
    return max(values, key=lambda value: (math.isnan(value), value))
