"""Streams of one packed pass against those of plain cached forwards, prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from layerwise.sweep.stream_reading import read_streams
from tests.models.tiny import tiny_model

CONTEXTS = [(5, 9, 7, 33, 2), (5, 9, 7, 33, 2, 8, 120), (5, 9, 44), (60,), (5, 9, 7)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("memory_budget", [2**20, 2**30])
def test_streams_are_those_of_plain_forwards(family, memory_budget):
    model = tiny_model(family)
    last, influence = read_streams(model, CONTEXTS, memory_budget=memory_budget)
    assert last.shape == (4, len(CONTEXTS), model.cfg.d_model)
    for i, context in enumerate(CONTEXTS):
        _, cache = model.run_with_cache(torch.tensor([context]))
        before = [cache["resid_pre", layer][0].double() for layer in range(3)]
        after = [cache["resid_post", layer][0].double() for layer in range(3)]
        for layer, (x, y) in enumerate(zip(before, after, strict=True)):
            torch.testing.assert_close(last[layer, i], x[-1], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(last[layer + 1, i], y[-1], atol=1e-4, rtol=1e-4)
            cosines = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            assert float(influence[layer, i]) == pytest.approx(1 - float(cosines.mean()), abs=1e-5)
