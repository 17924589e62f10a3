"""Another model's activations patched in: the engine against plain hooks, and against stitching."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from layerwise.analyses.transplant.exchange.weights import use_donor_weights
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.sweep import intact, sweep, together
from layerwise.sweep.changes.interventions import from_donor
from layerwise.tasks import build_requests
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model

SITES = ("resid_pre", "attn_out", "mlp_out", "resid_post", "z")


def task_requests(model: Any, protocol: str, n: int = 3) -> list[Any]:
    tokenizer, task = original_tokenizer(model), word_task(n)
    return [
        r.request for item in task.items for r in build_requests(task, item, protocol, tokenizer)
    ]


def pair(case: str) -> tuple[Any, Any]:
    if case in ("t5", "bart"):
        model = tiny_seq2seq(case)
        other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in other.parameters():
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        return model, other
    return tiny_model(case), tiny_model(case, seed=1)


def assert_close(found: Any, plain: Any) -> None:
    for one, reference in zip(found, plain, strict=True):
        np.testing.assert_allclose(one.token_logprobs, reference.token_logprobs, atol=1e-4)


@pytest.mark.long(but=["t5-2147483648"])
@pytest.mark.parametrize(
    ("case", "memory_budget"),
    [
        ("qwen3", 2**21), ("t5", 2**31),
        *in_long_runs(
            ("gpt2", 2**31), ("gpt2", 2**21), ("qwen3", 2**31), ("gpt_neo", 2**31),
            ("t5", 2**21), ("bart", 2**31),
        ),
    ],
)  # fmt: skip
def test_the_engine_agrees_with_plain_hooks(case, memory_budget):
    host, donor = pair(case)
    n_layers = host.cfg.n_layers
    sites = (*SITES, "cross_attn_out", "cross_z") if case in ("t5", "bart") else SITES
    changes = [
        from_donor(site, layer, donor, (1,) if site in ("z", "cross_z") else None)
        for layer in (range(n_layers) if "cross_z" not in sites else (0, n_layers - 1))
        for site in sites
        if not (site.startswith("cross") and layer == 0)
    ]
    changes += [together([from_donor("attn_out", layer, donor) for layer in (0, n_layers - 1)])]
    asked = task_requests(host, "continuation", 2)
    every = [intact(), *changes]
    found = sweep(host, every, asked, memory_budget=memory_budget).outcomes
    for mine, plain in zip(found, sweep(host, every, asked, method="reference").outcomes,
                           strict=True):  # fmt: skip
        assert_close(mine, plain)
    assert len({one[0].token_logprobs for one in found}) > len(changes) / 2


@pytest.mark.parametrize("protocol", ["continuation", "generate"])
def test_the_whole_stream_is_the_donors_layers_so_far_with_its_embeddings(protocol):
    host, donor = pair("qwen3")
    asked = task_requests(host, protocol, 2)
    method = "reference" if protocol == "generate" else "engine"
    (found,) = sweep(host, [from_donor("resid_post", 1, donor)], asked, method=method).outcomes
    with (
        use_donor_weights(host, donor, "embed", []),
        use_donor_weights(host, donor, "layer", [0, 1]),
    ):
        (stitched,) = sweep(host, [intact()], asked).outcomes
    if protocol == "generate":
        assert [one.tokens for one in found] == [one.tokens for one in stitched]
    else:
        assert_close(found, stitched)


def test_texts_are_not_written_by_the_engine_under_a_donor():
    host, donor = pair("gpt2")
    with pytest.raises(UserError, match="use method='reference'"):
        sweep(host, [from_donor("mlp_out", 0, donor)], task_requests(host, "generate", 1))
