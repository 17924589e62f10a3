"""How far two sweeps are apart, with floating-point ties set aside by a stated rule."""

from __future__ import annotations

import torch

from layerwise.sweep import Generated, Scored, Sweep
from layerwise.sweep.reference import _given, _logits

NATS = 1e-4


def assert_agree(
    model, interventions, requests, one: Sweep, other: Sweep, nats: float = NATS
) -> None:
    """Log-likelihoods within ``nats``; the same greedy tokens.

    Two texts may part only where the reference's two best tokens are closer than ``nats``:
    which of them comes out is then decided by rounding, not by the engine.
    """
    for i, intervention in enumerate(interventions):
        for r, request in enumerate(requests):
            a, b = one.outcomes[i][r], other.outcomes[i][r]
            assert type(a) is type(b)
            if isinstance(a, Scored) and isinstance(b, Scored):
                gaps = [abs(x - y) for x, y in zip(a.token_logprobs, b.token_logprobs, strict=True)]
                assert max(gaps) < nats, (intervention.id, request, gaps)
                if a.greedy != b.greedy:
                    _assert_tie(model, intervention, request, request.continuation, nats)
            elif isinstance(a, Generated) and isinstance(b, Generated) and a.tokens != b.tokens:
                same = 0
                while a.tokens[same : same + 1] == b.tokens[same : same + 1]:
                    same += 1
                _assert_tie(model, intervention, request, b.tokens[:same], nats, last_only=True)


def _assert_tie(model, intervention, request, new, nats, last_only=False) -> None:
    answer = tuple(new) if last_only else tuple(new)[:-1]
    logits = _logits(model, intervention, request, answer)
    rows = logits[-1:] if last_only else logits[len(_given(model, request)) - 1 :]
    best = torch.log_softmax(rows.float(), -1).topk(2).values
    gap = float((best[:, 0] - best[:, 1]).min())
    assert gap < nats, f"{intervention.id}: {request} differs, and the best two are {gap} apart"
