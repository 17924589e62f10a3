"""Engine against reference on real weights: layers skipped one at a time, all three protocols."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.models import original_tokenizer
from layerwise.sweep import intact, skip, sweep
from layerwise.sweep.requests import make_stopper
from layerwise.tasks import PROTOCOLS, build_requests, load_task
from tests.cases import LONG
from tests.models.real import smollm2

N_LAYERS = 30
SUITES = ("facts", "kv-words", "arithmetic", "open-book", "word-problems", "brackets")


@pytest.fixture
def same_work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that tells rounding from other differences."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("same_work")


def suite_requests(tokenizer: Any, suites: tuple[str, ...], n_items: int) -> dict[str, list[Any]]:
    """The requests by protocol, each task with one example; letters in long runs."""
    tasks = [load_task(name, limit=n_items, fewshot=1) for name in suites]
    return {
        protocol: [
            one.request
            for task in tasks
            for item in task.items
            for one in build_requests(task, item, protocol, tokenizer)
        ]
        for protocol in PROTOCOLS
        if LONG or protocol != "letter"
    }


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("suites", "n_items", "layers"),
    [
        pytest.param(("facts",), 1, (13,), id="1 item, 1 layer"),
        pytest.param(
            SUITES, 5, tuple(range(N_LAYERS)), id="30 items, 30 layers", marks=pytest.mark.long
        ),
    ],
)
def test_engine_equals_reference(same_work, suites, n_items, layers):
    """No further from float64 than rounding, measured on the model, explains; the same tokens."""
    model = smollm2()
    assert model.cfg.n_layers == N_LAYERS
    tokenizer = original_tokenizer(model)
    asked = suite_requests(tokenizer, suites, n_items)
    changes = [intact(), *(skip(layer) for layer in layers)]
    # At one go, so that contexts are shared between protocols, too.
    everything = [request for requests in asked.values() for request in requests]
    swept = sweep(model, changes, everything).outcomes
    begin = 0
    for protocol, requests in asked.items():
        fast = [outcomes[begin : begin + len(requests)] for outcomes in swept]
        begin += len(requests)
        slow = sweep(model, changes, requests, method="reference").outcomes
        skipped = [change.layer for change in changes]
        if protocol == "generate":
            (end,) = make_stopper(tokenizer).end_tokens
            texts = [[[one.tokens for one in row] for row in side] for side in (fast, slow)]
            same_work.check_texts(model, skipped, requests, *texts, end)
        else:
            same_work.check(model, changes, requests, fast, slow)
            _same_verdicts(same_work, model, skipped, requests, fast, slow)


def _same_verdicts(same_work, model, skipped, requests, fast, slow) -> None:
    """True if a continuation is the greedy one, but where it ties with another."""
    parted = [
        (layer, request)
        for layer, *sides in zip(skipped, fast, slow, strict=True)
        for request, one, other in zip(requests, *sides, strict=True)
        if one.greedy != other.greedy
    ]
    exact = same_work.in_dtype(model, torch.float64) if parted else model
    for layer, request in parted:
        short = max(same_work.shortfalls(exact, layer, request, request.continuation))
        assert same_work.is_tie(model, layer, request, request.continuation, short), request
