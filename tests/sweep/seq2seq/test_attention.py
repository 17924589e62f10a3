"""Cross-attention without keys and values of all input tokens: the same, where it is cheaper."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from layerwise.models.seq2seq.parts import AttentionParts
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    intact,
    mean,
    skip,
    skip_layers,
    sweep,
    zero,
)
from layerwise.sweep.requests import Request
from layerwise.sweep.seq2seq import block as module
from layerwise.sweep.seq2seq import decode
from layerwise.sweep.seq2seq.block import (
    AttentionLayout,
    Run,
    attention_layout,
    keys_values,
    memory_is_cheaper,
)
from layerwise.sweep.seq2seq.plan import plan_seq2seq_walk
from tests.models.seq2seq.tiny import tiny_seq2seq

from ..agreement import assert_agree
from .test_engine import FAMILIES

# Two inputs of one length, one of another; queries are in order in the first case alone.
ORDERED = [Run((0, 1), (0, 1, 2), False), Run((2, 3), (3, 4, 5), False)]
MIXED = [Run((3, 0), (4, 1, 2), False), Run((1,), (5, 0), False), Run((2, 4), (0, 3, 5), False)]


def random_attention(*, bias: bool) -> AttentionParts:
    torch.manual_seed(2)
    linear = [nn.Linear(12, 8, bias=bias).double().requires_grad_(False) for _ in range(3)]
    return AttentionParts(*linear, out=nn.Linear(8, 12), n_heads=2, scale=0.7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("runs", [ORDERED, MIXED])
def test_reading_the_memory_is_reading_its_keys_and_values(runs: list[Run], bias: bool) -> None:
    block, draw = random_attention(bias=bias), torch.Generator().manual_seed(3)
    n_queries = sum(len(run.queries) for run in runs)
    queries = torch.randn(3, n_queries, 2, 4, generator=draw, dtype=torch.float64)
    memory = torch.randn(3, 6, 12, generator=draw, dtype=torch.float64)
    layout: AttentionLayout = attention_layout(runs, n_queries, None, memory)
    made = keys_values(block, memory)
    slow = layout.read(queries, made.keys, made.values, block.scale)
    torch.testing.assert_close(layout.read_memory(queries, memory, block), slow)
    for run in runs:  # by hand, one query of one head after the other
        for query in run.queries:
            keys = list(run.keys)
            scores = made.keys[1, keys, 1] @ queries[1, query, 1] * block.scale
            by_hand = scores.softmax(0) @ made.values[1, keys, 1]
            torch.testing.assert_close(slow[1, query, 1], by_hand)


def test_few_short_answers_to_a_long_input_are_cheaper_without_keys_and_values() -> None:
    # 13 tokens of options, as four of four tokens that share their beginning; heads of 64
    assert memory_is_cheaper([(13, 96)], 64)
    assert not memory_is_cheaper([(30, 96)], 64)
    assert not memory_is_cheaper([(13, 20)], 64)
    assert memory_is_cheaper([(13, 96), (13, 96), (20, 96)], 64)
    assert memory_is_cheaper([], 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_reads_memories_of_branches(family: str, monkeypatch) -> None:
    model = tiny_seq2seq(family)
    cfg, words = model.cfg, tuple(range(5, 35))
    asked = [LogLikelihood(words, (4, 9)), LogLikelihood(words[::-1], (8,))]
    layers = range(cfg.n_layers)
    changes = [
        intact(), *map(skip, layers), skip_layers([0, cfg.n_layers - 1]), skip_layers([0, 1]),
        zero("cross_z", cfg.n_layers - 1, head=1), zero("z", 0, head=0),
        mean("mlp_out", 1, torch.ones(cfg.d_model)),
    ]  # fmt: skip
    short, long = [*asked, Generate(words, 3)], [*asked, Generate(words, 9)]

    def bare(requests: list[Request]) -> bool:
        plan = plan_seq2seq_walk(changes, requests, model.prefix, cfg.n_layers)
        return plan.reads_memory(cfg.decoder_d_head)

    assert (bare(asked), bare(short), bare(long)) == (True, True, False)
    read, called = module.read_out_of, []

    def told(by: str) -> Callable[..., torch.Tensor]:
        return lambda *given: called.append(by) or read(*given)

    monkeypatch.setattr(module, "read_out_of", told("walk"))
    monkeypatch.setattr(decode, "read_out_of", told("text"))
    for requests, expected in ((asked, {"walk"}), (short, {"walk", "text"}), (long, set())):
        called.clear()
        fast = sweep(model, changes, requests)
        assert set(called) == expected
        slow = sweep(model, changes, requests, method="reference")
        assert_agree(model, changes, requests, fast, slow)
