"""When one of our outcomes and one of lm-evaluation-harness's are the same.

Log-likelihoods differ by less than ``NATS``, everything else is equal. What rounding alone
decides is set aside by one rule: a text may part, and a token be the most likely one for one
side only, where the harness's two best tokens are closer than ``TIE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from layerwise.sweep import Generate, Generated, LogLikelihood, Scored
from layerwise.sweep.requests import Outcome
from layerwise.tasks import TaskRequest

NATS = 1e-3
TIE = 1e-4


def assert_same_tokens(lm: Any, asked: TaskRequest) -> None:
    """From the same strings the harness makes the same token ids."""
    request = asked.request
    if isinstance(request, Generate):
        assert lm.tok_batch_encode([asked.context])[0].tolist() == [list(request.context)]
    else:
        pair = lm._encode_pair(asked.context, asked.continuation)
        assert tuple(map(tuple, pair)) == (request.context, request.continuation)


def assert_same_likelihood(
    lm: Any, request: LogLikelihood, ours: Outcome, theirs: tuple[float, bool]
) -> None:
    """The same log-likelihood, and the same verdict whether the continuation is greedy."""
    assert isinstance(ours, Scored)
    assert ours.logprob == pytest.approx(theirs[0], abs=NATS, rel=0)
    if ours.greedy != theirs[1]:
        begun = [request.continuation[:n] for n in range(len(request.continuation))]
        apart = min(gap(lm, request.context + tokens) for tokens in begun)
        assert apart < TIE, f"{request}: the best two are {apart} nats apart"


def assert_same_text(lm: Any, request: Generate, ours: Outcome, theirs: str) -> None:
    """The same text, cut at the same stop string."""
    assert isinstance(ours, Generated)
    if ours.text != theirs:
        same = tokens_in_common(lm.tokenizer, ours.tokens, theirs)
        apart = gap(lm, request.context + ours.tokens[:same])
        assert apart < TIE, f"{ours.text!r}, not {theirs!r}: the best two are {apart} nats apart"


def tokens_in_common(tokenizer: Any, tokens: Sequence[int], text: str) -> int:
    """How many of the tokens ``text`` begins with."""
    for n in range(1, len(tokens) + 1):
        begun = tokenizer.decode(tokens[:n], skip_special_tokens=True)
        # The last character may lack bytes that later tokens bring.
        if not text.startswith(begun.rstrip("\ufffd")):
            return n - 1
    return len(tokens)


def gap(lm: Any, tokens: Sequence[int]) -> float:
    """By how many nats the best next token is ahead of the second in the harness's model."""
    with torch.inference_mode():
        logits = lm.model(torch.tensor([tokens])).logits[0, -1]
    best = logits.float().log_softmax(-1).topk(2).values
    return float(best[0] - best[1])
