"""Neighbouring layers exchanged by the sweep against a copy of the model with exchanged blocks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.errors import UserError
from layerwise.models.instance.kinds import model_blocks, model_inputs
from layerwise.sweep import Generate, LogLikelihood, intact, skip, swap_layers, sweep
from tests.cases import in_long_runs
from tests.models.decoder.tiny import CASES, tiny_decoder
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_folder, tiny_model

from .agreement import assert_reference
from .letters import Letters
from .models import KINDS, random_model

PROMPT, ANSWER = (1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11)
REQUESTS = [LogLikelihood(PROMPT, ANSWER), LogLikelihood(PROMPT[:3], ANSWER), Generate(PROMPT, 5)]
UNLIKE = ("sliding window", "gemma 2", "gemma 3", "gpt-2, by layer", "smollm 3", "gpt-neo")
HOOKED = ("llama-gqa", "gpt2", "neox", "soft-caps", "alibi")
OWN = ("olmo 2", "qwen 3 moe", "gpt-2", "phi", "deepseek 3")


def some_model(case: str) -> Any:
    if case in ("t5", "bart"):
        return tiny_seq2seq(case)
    return random_model(case) if case in KINDS else tiny_decoder(case)


def exchanged(model: Any, layer: int) -> Any:
    """A copy of a model whose two blocks stand in each other's place."""
    other = copy.deepcopy(model)
    stack = other.encoder if hasattr(other, "encoder") else other
    blocks = list(stack.blocks)
    blocks[layer], blocks[layer + 1] = blocks[layer + 1], blocks[layer]
    stack.blocks = torch.nn.ModuleList(blocks)
    return other


def logprobs(model: Any, request: LogLikelihood) -> list[float]:
    """Log-probabilities of a continuation, by one plain forward."""
    with torch.inference_mode():
        logits = model(*model_inputs(model, [request.context], request.continuation[:-1]))[0]
    n = len(request.continuation)
    rows = logits[-n:].float().log_softmax(-1)
    return [float(row[token]) for row, token in zip(rows, request.continuation, strict=True)]


def written(model: Any, request: Generate) -> tuple[int, ...]:
    """Greedy tokens, by one plain forward for each."""
    tokens: list[int] = []
    for _ in range(request.max_tokens):
        with torch.inference_mode():
            logits = model(*model_inputs(model, [request.context], tokens))[0, -1]
        tokens.append(int(logits.argmax()))
    return tuple(tokens)


@pytest.mark.parametrize("case", [
    "llama-gqa", "gpt2", "olmo 2", "qwen 3 moe", "bart",
    *in_long_runs(*((case,) for case in (*HOOKED[2:], *OWN[2:], "t5"))),
])  # fmt: skip
@pytest.mark.parametrize("memory_budget", [2**31, 2**17])
def test_swapped_layers_compute_what_a_model_with_exchanged_blocks_computes(case, memory_budget):
    model, layer = some_model(case), 0 if case in ("t5", "bart") else 1
    swap = swap_layers(model, layer)
    changes = [intact(), swap, skip(layer)]
    given: Any = {"tokenizer": Letters(None), "memory_budget": memory_budget}
    before, found, _ = sweep(model, changes, REQUESTS, **given).outcomes
    other = exchanged(model, layer)
    for asked, outcome, plain in zip(REQUESTS, found, before, strict=True):
        if isinstance(asked, Generate):
            assert outcome.tokens == written(other, asked)
        else:
            assert outcome.token_logprobs == pytest.approx(logprobs(other, asked), abs=1e-4)
            assert plain.token_logprobs == pytest.approx(logprobs(model, asked), abs=1e-4)
            assert outcome.token_logprobs != pytest.approx(plain.token_logprobs, abs=1e-2)


@pytest.mark.parametrize("case", ["llama-gqa", "gpt2", "olmo 2", "bart"])
def test_the_engine_agrees_with_plain_forwards_under_every_swap(case):
    model = some_model(case)
    layers = [n for n in range(model.cfg.n_layers - 1) if (case, n) != ("bart", 1)]
    changes = [intact(), *(swap_layers(model, layer) for layer in layers)]
    assert_reference(model, changes, REQUESTS, tokenizer=Letters(None))


def test_a_swap_does_not_change_the_model():
    model = random_model("llama-gqa")
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    changes = [swap_layers(model, 0), swap_layers(model, 1)]
    one = sweep(model, changes, REQUESTS[:2], method="reference").outcomes
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert sweep(model, changes, REQUESTS[:2], method="reference").outcomes == one
    assert (changes[0].id, changes[0].kind, changes[0].layers) == (
        "swap:layers=0+1",
        "swap",
        (0, 1),
    )


@pytest.mark.parametrize("case", UNLIKE)
def test_layers_that_differ_in_more_than_weights_are_refused(case):
    model = some_model(case)
    with pytest.raises(UserError, match=r"Layers 0 and 1 cannot change places: .*is .* in one and"):
        swap_layers(model, 0)


def test_layers_of_other_weights_are_refused():
    with pytest.raises(UserError, match="Layers 0 and 1 cannot change places"):
        swap_layers(tiny_decoder("deepseek 3"), 0)  # of which the first has no experts
    bart = tiny_seq2seq("bart")
    last = len(bart.encoder.blocks) - 1
    with pytest.raises(UserError, match=r"encoder.1 and decoder.0 cannot .* of two stacks"):
        swap_layers(bart, last)


@pytest.mark.parametrize("layer", [-1, 3, 40])
def test_the_last_layer_has_no_next_one(layer):
    with pytest.raises(UserError, match=r"no next layer .* expected 0 to 2"):
        swap_layers(random_model("gpt2"), layer)


def test_weights_on_disk_are_refused(tmp_path):
    model = lw.load_model(tiny_folder(tmp_path, "llama"), offload="disk")
    with pytest.raises(UserError, match=r"Layers 0 and 1 cannot change places: .* on disk"):
        swap_layers(model, 0)


def test_the_cases_are_known():
    assert {*UNLIKE, *HOOKED, *OWN} <= {*KINDS, *CASES}
    assert len(model_blocks(tiny_model("gpt2"))) > 1
