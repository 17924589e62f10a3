"""Requests to quantized models, their changes, and the rule for equal answers."""

from __future__ import annotations

from typing import Any

import pytest

from layerwise.sweep import Generate, LogLikelihood, Scored, intact, patch, resample, skip, sweep
from layerwise.sweep import zero as zero_at


def outcomes(model: Any, **how: Any) -> list[Any]:
    """Outcomes of some changes and patches, asked by log-likelihood and for texts."""
    begin = (5, 9, 20, 31, 7)
    asked = [LogLikelihood((*begin, n), (n + 3, 8), source=(3, *begin)) for n in range(30, 33)]
    asked += [Generate(begin, 6, source=begin[::-1]), Generate((*begin, 4), 4, source=begin)]
    changes = [
        intact(), *map(skip, range(model.cfg.n_layers)), resample("mlp_out", 2),
        resample("z", 0, 3), *(zero_at("z", 1, head) for head in range(4)),
    ]  # fmt: skip
    patches = [patch(site, 1, -1) for site in ("resid_pre", "attn_out", "mlp_out")]
    found = sweep(model, changes, asked, **how).outcomes
    return [*found, *sweep(model, patches, asked[:3], **how).outcomes]


def assert_alike(one: list[Any], other: list[Any], within: float = 1e-4) -> None:
    """Log-likelihoods within so many nats, and the same texts, token for token."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert type(a) is type(b)
            if isinstance(a, Scored):
                assert a.token_logprobs == pytest.approx(b.token_logprobs, abs=within)
            else:
                assert a == b
