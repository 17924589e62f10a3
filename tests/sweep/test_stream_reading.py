"""Streams of one packed pass against those of plain cached forwards, prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from layerwise.sweep import residuals_at
from layerwise.sweep.activations.streams import read_streams
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model

CONTEXTS = [(5, 9, 7, 33, 2), (5, 9, 7, 33, 2, 8, 120), (5, 9, 44), (60,), (5, 9, 7)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("memory_budget", [2**20, 2**30])
def test_streams_are_those_of_plain_forwards(family, memory_budget):
    model = tiny_model(family)
    ((last, influence),) = read_streams(model, CONTEXTS, memory_budget=memory_budget)
    assert last.shape == (4, len(CONTEXTS), model.cfg.d_model)
    for i, context in enumerate(CONTEXTS):
        _, cache = model.run_with_cache(torch.tensor([context]))
        before = [cache[f"blocks.{layer}.hook_resid_pre"][0].double() for layer in range(3)]
        after = [cache[f"blocks.{layer}.hook_resid_post"][0].double() for layer in range(3)]
        for layer, (x, y) in enumerate(zip(before, after, strict=True)):
            torch.testing.assert_close(last[layer, i], x[-1], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(last[layer + 1, i], y[-1], atol=1e-4, rtol=1e-4)
            cosines = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            assert float(influence[layer, i]) == pytest.approx(1 - float(cosines.mean()), abs=1e-5)


@pytest.mark.parametrize("case", ["t5", "bart", "t5-one-layer"])
@pytest.mark.parametrize("memory_budget", [2**20, 2**30])
def test_streams_of_both_stacks_are_those_of_plain_forwards(case, memory_budget):
    model, contexts = tiny_seq2seq(case), [*CONTEXTS, *CONTEXTS[:2], (9, 5)]
    stacks = read_streams(model, contexts, memory_budget=memory_budget)
    said = torch.tensor([model.prefix])
    sizes = {"encoder": model.cfg.n_encoder_layers, "decoder": model.cfg.n_decoder_layers}
    for i, context in enumerate(contexts):
        _, cache = model.run_with_cache(torch.tensor([context]), said)
        for (stack, size), (read, influence) in zip(sizes.items(), stacks, strict=True):
            assert read.shape == (size + 1, len(contexts), model.cfg.d_model)
            for layer in range(size):
                x, y = (
                    cache[f"{stack}.blocks.{layer}.hook_resid_{end}"][0].double()
                    for end in ("pre", "post")
                )
                for depth, resid in ((layer, x), (layer + 1, y)):
                    one = resid.mean(0) if stack == "encoder" else resid[-1]
                    torch.testing.assert_close(read[depth, i], one, atol=1e-4, rtol=1e-4)
                cosines = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
                turned = 1 - float(cosines.mean())
                assert float(influence[layer, i]) == pytest.approx(turned, abs=1e-5)


def test_texts_with_one_prompt_keep_their_places_though_they_go_through_together():
    model = tiny_seq2seq("t5")
    texts = [(5, 9, 7, 33), (8, 9, 44), (5, 9, 7, 60, 2), (8, 9, 44), (5, 9, 7)]
    n_prompt = [3] * len(texts)
    # The last token that the decoder begins with, and all that are said.
    positions = [range(2, len(text)) for text in texts]
    read = residuals_at(model, texts, positions, [("resid_post", 4)], n_prompt=n_prompt)[0]
    expected = []
    for text in texts:
        said = torch.tensor([[*model.prefix, *text[3:]]])
        _, cache = model.run_with_cache(torch.tensor([text[:3]]), said)
        expected.append(cache["decoder.blocks.1.hook_resid_post"][0, len(model.prefix) - 1 :])
    torch.testing.assert_close(read, torch.cat(expected), atol=1e-4, rtol=1e-4)
