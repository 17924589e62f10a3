"""Distance of two sweeps, with what rounding alone decides set aside by a stated rule."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from layerwise.models.instance.kinds import before_answer
from layerwise.sweep import Generated, LogLikelihood, Scored, Sweep, sweep
from layerwise.sweep.checks.reference import intervened_logits
from layerwise.sweep.checks.rounding import FLOOR, distance, measure_rounding

from .sizes import Sizes


def assert_agree(model, interventions, requests, one: Sweep, other: Sweep) -> None:
    """Log-likelihoods within ``FLOOR``, or no further from float64 than rounding explains.

    Two texts may part only where the other side's two best tokens are as close: which of them
    comes out is then decided by rounding, not by the engine.
    """
    for i, intervention in enumerate(interventions):
        scored = [r for r, asked in enumerate(requests) if isinstance(asked, LogLikelihood)]
        far = False
        for r, request in enumerate(requests):
            a, b = one.outcomes[i][r], other.outcomes[i][r]
            assert type(a) is type(b)
            if isinstance(a, Scored) and isinstance(b, Scored):
                far = far or not distance(a, b) < FLOOR
                if a.token_greedy != b.token_greedy:
                    _assert_tie(model, intervention, request, request.continuation)
            elif isinstance(a, Generated) and isinstance(b, Generated) and a.tokens != b.tokens:
                same = 0
                while a.tokens[same : same + 1] == b.tokens[same : same + 1]:
                    same += 1
                _assert_tie(model, intervention, request, b.tokens[:same], last_only=True)
        if far:
            rounding = measure_rounding(model, intervention, [requests[r] for r in scored])
            error = rounding.error([one.outcomes[i][r] for r in scored])
            assert error <= rounding.error_bound, (intervention.id, requests, error, rounding)


def _assert_tie(model, intervention, request, new, last_only=False) -> None:
    answer = tuple(new) if last_only else tuple(new)[:-1]
    logits = intervened_logits(model, intervention, request, answer)
    rows = logits[-1:] if last_only else logits[len(before_answer(model, request.context)) - 1 :]
    best, tokens = torch.log_softmax(rows.float(), -1).topk(2)
    gap = float((best[:, 0] - best[:, 1]).min())
    if gap >= FLOOR:
        scored = LogLikelihood(request.context, (*answer, int(tokens[-1, 0])), request.source)
        bound = measure_rounding(model, intervention, [scored]).error_bound
        assert gap <= bound, f"{intervention.id}: {request} differs; the best two are {gap} apart"


def assert_reference(
    model: Any, changes: Any, requests: Any, sizes: Sizes | None = None, **given: Any
) -> Sweep:
    """The engine's sweep, its work cut by some sizes, which agrees with the reference."""
    with nullcontext() if sizes is None else sizes.in_use():
        own = {} if sizes is None else {"memory_budget": sizes.budget}
        fast = sweep(model, changes, requests, **own, **given)
    slow = sweep(model, changes, requests, method="reference", **given)
    assert_agree(model, changes, requests, fast, slow)
    return fast
