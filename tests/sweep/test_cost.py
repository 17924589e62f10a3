from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layerwise.sweep import (
    Generate,
    LogLikelihood,
    intact,
    patch,
    plan_sweep,
    skip,
    skip_layers,
    sweep,
    zero,
)
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.plans.cost import Cost, TextLengths, matrix_flop, sweep_cost
from layerwise.sweep.run import model_shape
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.sweep.letters import Letters
from tests.sweep.models import N_LAYERS, random_model

ASKED = [LogLikelihood((1, 2, 3, 4 + i), (5, 6 + j)) for i in range(6) for j in range(2)]
TEXTS = [Generate((1, 2, 3, 4 + i), 6) for i in range(4)]
SINGLES = [intact(), *(skip(layer) for layer in range(N_LAYERS))]
BUDGET = 2**30


@cache
def kind_model(kind: str):
    return tiny_seq2seq(kind) if kind == "t5" else random_model(kind)


def cost(interventions, requests, kind="llama-gqa", **more) -> Cost:
    shape = model_shape(kind_model(kind))
    given = {"tokens_at_once": 2048, "memory_budget": BUDGET} | more
    plan = plan_sweep(interventions, requests, shape, given["memory_budget"])
    return sweep_cost(plan, interventions, requests, shape, **given)


@pytest.mark.parametrize("kind", ["llama-gqa", "alibi", "t5"])
@pytest.mark.parametrize(
    "interventions",
    [
        SINGLES,
        SINGLES[2:],
        [zero("attn_out", 1), zero("resid_post", 2), zero("mlp_out", 3)],
        [intact(), skip_layers([1, 2]), skip_layers([1, 3]), skip(1)],
    ],
)
@pytest.mark.parametrize("budget", [BUDGET, 60_000])
def test_log_likelihoods_cost_what_the_engine_counts(kind, interventions, budget, monkeypatch):
    assert_cost_is_counted(interventions, ASKED, kind, budget, monkeypatch)


@pytest.mark.parametrize("kind", ["llama-gqa", "alibi", "t5"])
def test_patches_cost_what_the_engine_counts(kind, monkeypatch):
    sourced = [LogLikelihood((1, 2, 3, 4), (token,), (1, 2, 7, 4)) for token in (5, 6)]
    patches = [patch("resid_pre", layer, pos) for layer in range(3) for pos in (1, 2, -1)]
    assert_cost_is_counted(patches, sourced, kind, BUDGET, monkeypatch)


def assert_cost_is_counted(interventions, requests, kind, budget, monkeypatch) -> None:
    from layerwise.sweep.walk import engine_run

    check_faithful(kind_model(kind))  # once for each model, before its first sweep
    rows = []
    real = engine_run.score_rows
    monkeypatch.setattr(
        engine_run, "score_rows", lambda model, resid, *rest: rows.append(len(resid))
        or real(model, resid, *rest),
    )  # fmt: skip
    swept = sweep(kind_model(kind), interventions, requests, memory_budget=budget)
    planned = cost(interventions, requests, kind, memory_budget=budget)
    assert planned.token_passes == swept.stats.token_passes
    assert planned.brute_force_token_passes == swept.stats.brute_force_token_passes
    assert planned.rows == sum(rows)


@pytest.mark.parametrize(("kind", "n_layers"), [("llama-gqa", N_LAYERS), ("t5", 2)])
def test_texts_that_are_as_long_as_expected_cost_what_the_engine_counts(kind, n_layers):
    """Every text gets as long as it may, for no token ends it; and no two are ever shared."""
    changes = [intact(), zero("attn_out", 0)]
    planned = cost(changes, TEXTS, kind, lengths=TextLengths(1.0, 1.0, agreed=0.0))
    swept = sweep(kind_model(kind), changes, TEXTS, tokenizer=Letters())
    assert planned.text_rows == swept.stats.new_tokens == 2 * 4 * 5
    assert planned.text_token_passes == planned.most_text_token_passes == n_layers * 2 * 4 * 5
    assert planned.brute_force_token_passes == swept.stats.brute_force_token_passes


def test_layers_before_a_change_are_shared_while_texts_agree():
    alone, shared = (
        cost([intact(), skip(2)], TEXTS, lengths=TextLengths(1.0, 1.0, agreed=agreed))
        for agreed in (0.0, 1.0)
    )
    tokens = 4 * 5
    assert alone.text_token_passes == tokens * (N_LAYERS + N_LAYERS - 1)
    assert shared.text_token_passes == tokens * (N_LAYERS + N_LAYERS - 3)


def test_arithmetic_is_that_of_the_matrix_products():
    """One plain forward, its matrix products counted by torch."""
    for kind in ("llama-gqa", "gpt2", "attention only"):
        model = random_model(kind)
        n = 40
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.zeros(1, n, dtype=torch.long))
        expected = matrix_flop(model_shape(model), n * N_LAYERS, n * n * N_LAYERS, n)
        assert expected == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_arithmetic_of_two_stacks_is_that_of_their_products():
    model, request = tiny_seq2seq("t5"), LogLikelihood((5, 6, 7, 8, 9, 10), (4, 9, 3))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.tensor([request.context]), torch.tensor([[*model.prefix, 4, 9]]))
    planned = cost([intact()], [request], "t5").flop
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_texts_that_do_not_fit_at_once_take_more_steps():
    few, many = ([Generate((1, 2, 3, 4 + i), 6) for i in range(n)] for n in (4, 40))
    steps = [
        cost(SINGLES, texts, lengths=TextLengths(1.0, 1.0), memory_budget=budget).steps
        for texts, budget in ((few, BUDGET), (many, BUDGET), (many, 60_000))
    ]
    assert steps[0] == steps[1] == 5
    assert steps[2] > 5


def test_costs_add_up():
    one, other = cost(SINGLES, ASKED), cost(SINGLES[:2], TEXTS)
    both = one + other
    assert both.requests == len(ASKED) + len(TEXTS)
    assert both.interventions == len(SINGLES)
    assert both.token_passes == one.token_passes + other.token_passes
    assert both.steps == one.steps + other.steps
    assert both.peak_bytes == max(one.peak_bytes, other.peak_bytes)
    assert Cost() + one == one
