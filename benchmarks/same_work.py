"""Whether the engine and hooked forwards did the same work; a ratio of different work says nothing.

Differences that rounding alone explains are told apart from others by float64.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from transformer_lens import HookedTransformer

from layerwise.sweep import Generated, Intervention, Scored, sweep

NATS = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How far apart log-probabilities were.

    Attributes:
        compared: outcomes compared.
        largest: the largest difference of a token's log-probability, in nats.
        by_rounding: outcomes that differ by ``NATS`` or more, the engine's not the further one
            from float64.
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


def check(
    model: HookedTransformer,
    changes: Sequence[Intervention],
    requests: Sequence[Any],
    engine: Sequence[Sequence[Any]],
    hooks: Sequence[Sequence[Any]],
) -> Agreement:
    """Compare outcomes, by change and then request.

    Raises:
        SystemExit: a text differs in a token; or a log-probability differs by ``NATS`` or more,
            and the engine's is further from the one in float64 than ``NATS`` and than the other.
    """
    pairs = [(change, asked) for change in changes for asked in requests]
    gaps = [_gap(a, b) for a, b in zip(chain(*engine), chain(*hooks), strict=True)]
    far = [index for index, gap in enumerate(gaps) if gap >= NATS]
    if far:
        exact = _in_float64(model)
        for index in far:
            change, asked = pairs[index]
            truth = sweep(exact, [change], [asked], method="reference").outcomes[0][0]
            ours, theirs = list(chain(*engine))[index], list(chain(*hooks))[index]
            if _gap(ours, truth) > max(NATS, _gap(theirs, truth)):
                raise SystemExit(f"{change.id}: the engine is {_gap(ours, truth)} nats off.")
    return Agreement(len(gaps), max(gaps), len(far))


def _gap(one: Any, other: Any) -> float:
    if isinstance(one, Scored):
        pairs = zip(one.token_logprobs, other.token_logprobs, strict=True)
        return max(abs(a - b) for a, b in pairs)
    assert isinstance(one, Generated)
    if one.tokens != other.tokens:
        raise SystemExit(f"Texts differ: {one.text!r}, {other.text!r}.")
    return 0.0


def _in_float64(model: HookedTransformer) -> HookedTransformer:
    exact = copy.deepcopy(model).double()
    exact.cfg.dtype = torch.float64
    return exact
