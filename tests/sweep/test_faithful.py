"""Models that the engine would compute differently are refused; all others are as the model."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.modules import module as torch_modules

from layerwise.errors import UserError
from layerwise.models.instance.facts import Origin, attach_origin, describe
from layerwise.sweep import (
    Generate,
    Generated,
    LogLikelihood,
    Scored,
    intact,
    mean_activations,
    residuals_at,
    skip,
    sweep,
)
from layerwise.sweep.checks import faithful
from layerwise.sweep.checks.faithful import check_faithful
from tests.hooked import HookedTransformer, HookedTransformerConfig

from ..models.tiny import tiny_tokenizer
from .models import new_model, random_model
from .own_models import NOT_FOR_REFERENCE, REFUSED, SUPPORTED, changed_model

ASKED = [
    LogLikelihood((1, 2, 3, 4, 5), (6, 7, 8)),
    LogLikelihood((1, 2, 3, 9), (4,)),
    Generate((1, 2, 3, 4), 3),
]


@contextlib.contextmanager
def change(kind: str, how: Any) -> Iterator[Any]:
    """A changed model; hooks on all modules of torch are taken away behind it."""
    model, handle = changed_model(kind, how)
    try:
        yield model
    finally:
        if torch_modules._global_forward_hooks:
            handle.remove()


def assert_as_the_model(model: Any, outcomes: list[Any], nats: float = 1e-4) -> None:
    """Log-probabilities, and the best tokens, are those of plain calls of the model."""
    for request, outcome in zip(ASKED, outcomes, strict=True):
        said = outcome.tokens if isinstance(outcome, Generated) else request.continuation
        with torch.no_grad():
            logits = model(torch.tensor([[*request.context, *said[:-1]]]))[0, -len(said) :]
        rows = logits.double().log_softmax(-1)
        for row, token, place in zip(rows, said, range(len(said)), strict=True):
            if isinstance(outcome, Scored):
                assert outcome.token_logprobs[place] == pytest.approx(float(row[token]), abs=nats)
            else:
                assert float(row[token]) >= float(row.max()) - nats


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_would_not_see_is_refused_by_all_that_uses_it(name):
    kind, how, said = REFUSED[name]
    with change(kind, how) as model:
        for use in (
            lambda: sweep(model, [intact(), skip(1)], ASKED),
            lambda: mean_activations(model, [(1, 2, 3)], ["attn_out"]),
            lambda: residuals_at(model, [(1, 2, 3)], [[2]], [("resid_post", 1)]),
        ):
            with pytest.raises(UserError, match=said):
                use()


@pytest.mark.parametrize("name", [n for n in REFUSED if n not in ("chance", "dropout in training")])
def test_the_reference_computes_what_the_model_does_or_refuses(name):
    kind, how, said = REFUSED[name]
    with change(kind, how) as model:
        if name in NOT_FOR_REFERENCE:
            with pytest.raises(UserError, match=said):
                sweep(model, [intact()], ASKED, method="reference")
        else:
            found = sweep(model, [intact()], ASKED, method="reference")
            assert_as_the_model(model, found.outcomes[0])


@pytest.mark.parametrize("name", SUPPORTED)
def test_what_the_engine_can_do_is_what_the_model_does(name):
    kind, how = SUPPORTED[name]
    with change(kind, how) as model:
        nats = 0.3 if model.cfg.dtype == torch.bfloat16 else 1e-4
        assert_as_the_model(model, sweep(model, [intact()], ASKED).outcomes[0], nats)
        _, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]), names_filter=lambda n: True)
        found = residuals_at(model, [(1, 2, 3)], [[2]], [("resid_post", 1)])[0, 0]
        torch.testing.assert_close(
            found, cache["blocks.1.hook_resid_post"][0, 2].detach(), atol=nats, rtol=1e-2
        )


def test_an_own_model_is_compared_once_and_again_when_it_changed(monkeypatch):
    compared: list[Any] = []
    monkeypatch.setattr(faithful, "_compare", compared.append)
    model = new_model("gpt2")
    for _ in range(3):
        check_faithful(model)
    assert len(compared) == 1
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(2.0)
    check_faithful(model)
    assert len(compared) == 2
    model.blocks[0].mlp.W_in = torch.nn.Parameter(model.blocks[0].mlp.W_in.data)
    check_faithful(model)
    model.cfg.output_logits_soft_cap = 3.0
    check_faithful(model)
    model.blocks[1].mlp.act_fn = torch.nn.Tanh()
    check_faithful(model)
    assert len(compared) == 5
    check_faithful(copy.deepcopy(model))
    assert len(compared) == 6


def test_a_loaded_model_is_compared_only_after_a_change(monkeypatch):
    compared: list[Any] = []
    monkeypatch.setattr(faithful, "_compare", compared.append)
    model: Any = new_model("gpt2")
    facts = describe(model, "")
    attach_origin(model, Origin(facts, tiny_tokenizer()))
    check_faithful(model)
    assert not compared
    with torch.no_grad():
        model.blocks[0].attn.b_Q.zero_()
    check_faithful(model)
    assert compared == [model]


def test_a_refused_model_is_looked_at_again_once_it_was_mended():
    model: Any = new_model("gpt2")
    handle = model.blocks[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(UserError, match="hooks of torch"):
        check_faithful(model)
    handle.remove()
    check_faithful(model)
    model.blocks[1]._forward_hooks = type(model.blocks[1]._forward_hooks)()
    model.blocks[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(UserError, match="hooks of torch"):
        check_faithful(model)


def test_what_rounding_explains_is_accepted_and_no_more(monkeypatch):
    """A model that amplifies rounding, and the same with a difference as large but for no cause."""
    model: Any = new_model("llama-gqa")
    apart = 3e-4
    monkeypatch.setattr(faithful, "_differences", lambda *given: iter([apart]))
    monkeypatch.setattr(faithful, "_spread", lambda *given: apart)
    check_faithful(model)
    monkeypatch.setattr(faithful, "_spread", lambda *given: apart / 10)
    with torch.no_grad():
        model.W_E.mul_(1.0)
    with pytest.raises(UserError, match=r"differ by up to 0.0003 nats .* rounding explains 0.0001"):
        check_faithful(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_disturbed_runs_bound_the_engine_in_every_number_format(dtype, monkeypatch):
    """The engine's own rounding lies within what one disturbed run shows."""
    monkeypatch.setattr(faithful, "DRAWS", 1)
    model: Any = new_model("llama-mqa").to(dtype)
    requests = faithful._requests(model)[2:5]
    with torch.inference_mode():
        plain = [faithful._run_model(model, request) for request in requests]
        difference = max(faithful._differences(model, requests, plain))
        spread = faithful._spread(model, requests, plain)
    assert 0 < difference < faithful.TIMES * spread
    assert spread < 3e3 * torch.finfo(dtype).eps


def test_a_short_context_or_few_words_are_no_obstacle():
    for n_ctx, d_vocab, d_vocab_out in ((1, 5, 5), (2, 5, 5), (7, 1, 1), (41, 5, 9), (41, 9, 5)):
        cfg = HookedTransformerConfig(
            n_layers=1, d_model=8, n_ctx=n_ctx, d_head=4, n_heads=2, d_mlp=8, d_vocab=d_vocab,
            d_vocab_out=d_vocab_out, act_fn="relu",
        )  # fmt: skip
        with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
            check_faithful(HookedTransformer(cfg))


def test_autocast_is_refused_in_both_ways_of_running():
    model = random_model("gpt2")
    for method in ("engine", "reference"):
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            pytest.raises(UserError, match=r"compute in bfloat16 what is recorded as float32"),
        ):
            sweep(model, [intact()], ASKED, method=method)
