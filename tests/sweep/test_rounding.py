"""Rounding as a bound: an amplifying change is let pass, and a fault is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from layerwise.sweep import LogLikelihood, Scored, intact, skip, sweep
from layerwise.sweep.checks.rounding import FLOOR, RoundingError, measure_rounding
from layerwise.sweep.run import Sweep
from tests.cases import few_by_day

from .agreement import assert_agree
from .models import KINDS, amplifying_model, random_model

REQUESTS = [
    LogLikelihood((1, 2, 3, 4, 5, 6), (7, 8)),
    LogLikelihood(tuple(range(20)), (3, 4, 5)),
]
CHANGES = [intact(), skip(0), skip(2)]


def shift_logprob(swept: Sweep, nats: float) -> Sweep:
    """The same but for one token's log-probability under the first change."""
    first = swept.outcomes[0][0]
    assert isinstance(first, Scored)
    off = (first.token_logprobs[0] + nats, *first.token_logprobs[1:])
    wrong = replace(first, token_logprobs=off)
    return replace(swept, outcomes=[[wrong, *swept.outcomes[0][1:]], *swept.outcomes[1:]])


@pytest.mark.long
def test_rounding_that_a_model_amplifies_is_no_fault_and_what_is_above_it_is():
    model = amplifying_model()
    fast = sweep(model, CHANGES, REQUESTS)
    slow = sweep(model, CHANGES, REQUESTS, method="reference")
    rounding = measure_rounding(model, intact(), REQUESTS)
    assert FLOOR < rounding.largest < rounding.error_bound < 1
    assert_agree(model, CHANGES, REQUESTS, fast, slow)
    # Rounding itself, larger than any fixed tolerance would allow.
    assert_agree(model, CHANGES, REQUESTS, shift_logprob(fast, rounding.largest), slow)
    with pytest.raises(AssertionError, match="intact"):
        assert_agree(
            model, CHANGES, REQUESTS, shift_logprob(fast, 2.5 * rounding.error_bound), slow
        )


def test_a_key_too_few_is_a_fault_even_where_rounding_grows():
    """The first token left out: what a stale or a missing key does."""
    model = amplifying_model()
    slow = sweep(model, CHANGES, REQUESTS, method="reference")
    shorter = [replace(asked, context=asked.context[1:]) for asked in REQUESTS]
    with pytest.raises(AssertionError):
        assert_agree(model, CHANGES, REQUESTS, sweep(model, CHANGES, shorter), slow)


@pytest.mark.parametrize(
    "kind", few_by_day(KINDS, "llama-gqa", "gpt2", "neox", "no norm", "soft-caps")
)
def test_rounding_of_tiny_models_is_far_below_the_tolerances_of_their_tests(kind):
    """So a fixed 1e-4 is no property of the machine for them."""
    for change in (intact(), skip(0)):
        assert measure_rounding(random_model(kind), change, REQUESTS[1:]).largest < FLOOR / 2


def test_the_truth_is_float64_and_nothing_is_left_of_the_measurement():
    model = random_model("llama-gqa")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    once, again = (measure_rounding(model, skip(1), REQUESTS) for _ in range(2))
    assert once == again
    assert isinstance(once, RoundingError)
    double = sweep(model, [skip(1)], REQUESTS, method="reference").outcomes[0]
    assert 0 < once.error(double) <= once.largest
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert model.W_E.dtype == model.cfg.dtype == torch.float32
