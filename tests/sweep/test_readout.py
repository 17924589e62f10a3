from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep.walk.readout import first_argmax, log_normaliser, logits_of, score_rows

from .models import KINDS, random_model


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=5))
def test_of_equal_logits_the_smallest_id_wins(rows):
    logits = torch.tensor(rows, dtype=torch.float)
    assert first_argmax(logits).tolist() == [row.index(max(row)) for row in rows]


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
    torch.testing.assert_close(logits_of(model, resid), logits[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_scores_are_those_of_all_chunks(chunk):
    model = random_model("gpt2")
    resid = torch.randn(7, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    # Several targets of a row, rows without any, and none at the end.
    rows, tokens = torch.tensor([0, 0, 2, 3, 3, 3]), torch.tensor([5, 1, 0, 49, 7, 7])
    logprobs, greedy = score_rows(model, resid, rows, tokens, chunk)
    expected = logits_of(model, resid).log_softmax(-1)
    torch.testing.assert_close(logprobs, expected[rows, tokens], atol=1e-5, rtol=1e-5)
    assert greedy.tolist() == expected.argmax(-1).tolist()
