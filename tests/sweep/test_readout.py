"""Reading out logits: of equal ones the smallest token id wins, by engine and reference."""

from __future__ import annotations

import copy

import pytest
import torch

from layerwise.sweep import Generate, Generated, LogLikelihood, Scored, intact, skip, sweep
from layerwise.sweep.checks.reference import intervened_logits
from layerwise.sweep.walk.readout import final_logits, log_normaliser, score_rows
from tests.cases import in_long_runs

from .models import D_MODEL, D_VOCAB, KINDS, N_LAYERS, random_model
from .sizes import Sizes


def test_normalisers_are_those_of_their_rows():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 5
    logits[3] += 1000.0  # would overflow
    expected = logits.logsumexp(-1)
    torch.testing.assert_close(log_normaliser(logits.clone()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models(kind):
    model = random_model(kind)
    given = torch.tensor([[3, 1, 4, 1, 5]])
    logits, cache = model.run_with_cache(given)
    resid = cache["blocks.3.hook_resid_post"][0]
    torch.testing.assert_close(final_logits(model, resid), logits[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("chunk", [2, 100])
def test_scores_are_those_of_all_chunks(chunk):
    model = random_model("gpt2")
    resid = torch.randn(7, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    # Several targets of a row, rows without any, and none at the end.
    rows, tokens = torch.tensor([0, 0, 2, 3, 3, 3]), torch.tensor([5, 1, 0, 49, 7, 7])
    logprobs, greedy = score_rows(model, resid, rows, tokens, chunk)
    expected = final_logits(model, resid).log_softmax(-1)
    torch.testing.assert_close(logprobs, expected[rows, tokens], atol=1e-5, rtol=1e-5)
    assert greedy.tolist() == expected.argmax(-1).tolist()


HALF = D_VOCAB // 2
CHANGES = [intact(), *(skip(layer) for layer in range(N_LAYERS))]


def twins(kind: str, loud: float):
    """A model in which token t and token t + 25 are always equally likely.

    Both read the one number of the residual stream, since longer sums of equal terms come out
    differently in different columns of a matrix product.
    """
    model = copy.deepcopy(random_model(kind, loud))
    model.unembed.W_U.data = torch.eye(D_MODEL)[:, [*range(HALF), *range(HALF)]]
    model.unembed.b_U.data[HALF:] = model.unembed.b_U.data[:HALF]
    logits = intervened_logits(model, intact(), LogLikelihood((1,), (2,)), (2, 3))
    assert torch.equal(logits[:, HALF:], logits[:, :HALF])
    return model


@pytest.mark.long(but=["gpt2-0.01"])
@pytest.mark.parametrize(
    ("kind", "loud"),
    [
        ("gpt2", 0.01),
        ("soft-caps", 1.0),
        *in_long_runs(("llama-gqa", 1.0), ("gpt2", 1.0), ("soft-caps", 0.01)),
    ],
)
def test_the_smallest_id_wins(kind, loud):
    model = twins(kind, loud)
    texts = [Generate((1, 2, 3), 12), Generate((1, 2, 4), 5)]
    with Sizes(room=16, capacity=2, beginning=1).in_use():
        fast = sweep(model, CHANGES, texts)
    slow = sweep(model, CHANGES, texts, method="reference")
    assert fast.outcomes == slow.outcomes
    for outcomes in fast.outcomes:
        for text in outcomes:
            assert isinstance(text, Generated)
            assert max(text.tokens) < HALF
    # The greedy text is greedy; the same with one token's equal is not, though as likely.
    for change, outcomes in zip(CHANGES, slow.outcomes, strict=True):
        tokens = outcomes[0].tokens[:3]
        asked = [
            LogLikelihood((1, 2, 3), tokens),
            LogLikelihood((1, 2, 3), (*tokens[:2], tokens[2] + HALF)),
        ]
        for method in ("engine", "reference"):
            ((first, twin),) = sweep(model, [change], asked, method=method).outcomes
            assert isinstance(first, Scored)
            assert isinstance(twin, Scored)
            assert (first.greedy, twin.greedy) == (True, False), method
            assert first.logprob == pytest.approx(twin.logprob, abs=1e-5)
