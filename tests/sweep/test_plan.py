from __future__ import annotations

import pytest
import torch

from layerwise.errors import UserError
from layerwise.sweep import Generate, LogLikelihood, intact, mean, noise, patch, skip
from layerwise.sweep.plans.plan import ModelShape, plan_sweep

SHAPE = ModelShape(n_layers=4, d_model=32, d_kv=16, itemsize=4, n_ctx=64, n_heads=2, d_heads=16)
REQUESTS = [LogLikelihood((1, 2, 3 + i), (4, 5)) for i in range(20)]
SINGLES = [intact(), *(skip(layer) for layer in range(4))]


def test_work_is_a_triangle_of_layers():
    plan = plan_sweep(SINGLES, REQUESTS, SHAPE)
    (batch,) = plan.batches
    assert batch.n_packed == 2 + 20 * 2  # a shared prefix, then own token and one continuation
    # In layer k the trunk and the k branches that skipped a layer before it; out of the last
    # layer comes only what is read: two tokens a request.
    assert plan.token_passes == batch.n_packed * (1 + 2 + 3) + 40 * 4
    assert plan.brute_force_token_passes == 20 * 4 * 5 * 4
    assert "1 walk," in str(plan)


@pytest.mark.parametrize("budget", [2_000, 20_000, 200_000])
def test_every_pair_is_in_exactly_one_walk_within_the_budget(budget):
    plan = plan_sweep(SINGLES, REQUESTS, SHAPE, budget)
    pairs = [(i, r) for b in plan.batches for i in b.interventions for r in b.requests]
    assert sorted(pairs) == [(i, r) for i in range(5) for r in range(20)]
    for batch in plan.batches:
        residuals = len(batch.interventions) * batch.n_packed * SHAPE.d_model * SHAPE.itemsize
        one_request = batch.n_packed <= 4 and len(batch.interventions) == 1
        assert residuals <= budget or one_request


@pytest.mark.parametrize(
    ("interventions", "requests", "sentence"),
    [
        ([skip(4)], REQUESTS, r"Layer 4 .* layers 0 to 3"),
        ([skip(-1)], REQUESTS, r"Layer -1 .* layers 0 to 3"),
        ([intact()], [Generate((1,) * 60, 5)], r"needs 65 tokens, but the model's context is 64"),
        ([intact()], [LogLikelihood((), (1,))], "empty context"),
        ([intact()], [LogLikelihood((1,), ())], "empty context or continuation"),
        ([patch("resid_pre", 0, 0)], REQUESTS, "no source run of the same length"),
        ([patch("resid_pre", 0, 0)], [LogLikelihood((1, 2), (3,), (1,))], "same length"),
        ([patch("resid_pre", 0, 2)], [LogLikelihood((1, 2), (3,), (1, 5))], "out of range"),
        (
            [patch("resid_pre", 0, 0, source_pos=3)],
            [LogLikelihood((1, 2), (3,), (1, 5, 6))],
            "Patch position 3 is out of range for request 0, whose source run has 3 tokens",
        ),
        ([mean("mlp_out", 1, torch.zeros(7))], REQUESTS, r"7 numbers for mlp_out .* have 32"),
        ([noise("z", 1, torch.zeros(3, 2, 9))], REQUESTS, r"9 numbers for z .* have 8"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(interventions, requests, sentence):
    with pytest.raises(UserError, match=sentence):
        plan_sweep(interventions, requests, SHAPE)
