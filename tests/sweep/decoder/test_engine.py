"""The engine over a decoder's own modules against brute force, token for token."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise.sweep import LogLikelihood, intact, patch, skip, sweep
from layerwise.sweep.changes.edits import AddSite, SetSite
from layerwise.sweep.changes.interventions import Intervention
from tests.cases import cases
from tests.models.decoder.tiny import BY_DAY, CASES, tiny_decoder
from tests.models.refusal import expect_refusal

from .. import strategies
from ..agreement import assert_agree, assert_reference
from ..letters import Letters
from ..models import D_HEAD
from ..sizes import sizes

FAMILIES = [pytest.param(case, marks=() if case in BY_DAY else pytest.mark.long) for case in CASES]
each_kind = cases(3 * len(CASES))


def possible(parallel: bool, intervention: Intervention) -> bool:
    return not (parallel and any(edit.site == "resid_mid" for edit in intervention.edits))


def fit_interventions(model: Any, interventions: list[Intervention]) -> list[Intervention]:
    """Those that the model can have, with vectors as wide as its heads are."""
    places = torch.arange(model.cfg.d_head) % D_HEAD

    def fitted(edit: Any) -> Any:
        given = isinstance(edit, SetSite | AddSite) and edit.value.shape[-1:] == (D_HEAD,)
        return replace(edit, value=edit.value[..., places]) if given else edit

    return [
        replace(one, edits=tuple(map(fitted, one.edits)))
        for one in interventions
        if possible(model.cfg.parallel_attn_mlp, one)
    ]


@pytest.mark.parametrize("case", FAMILIES)
@each_kind
@given(
    requests=strategies.requests(),
    interventions=strategies.interventions,
    sizes=sizes,
    end=st.sampled_from([None, 0, 2]),
)
def test_engine_equals_reference(case, requests, interventions, sizes, end) -> None:
    model = tiny_decoder(case)
    changes = fit_interventions(model, interventions)
    assert_reference(model, changes, requests, sizes, tokenizer=Letters(end))


@pytest.mark.parametrize("case", FAMILIES)
@each_kind
@given(requests=strategies.patch_requests(), interventions=strategies.patches, sizes=sizes)
def test_patches_equal_reference(case, requests, interventions, sizes) -> None:
    model = tiny_decoder(case)
    assert_reference(model, fit_interventions(model, interventions), requests, sizes)


@pytest.mark.parametrize("case", FAMILIES)
@each_kind
@given(requests=strategies.copy_requests(), interventions=strategies.copies, sizes=sizes)
def test_copies_equal_reference(case, requests, interventions, sizes) -> None:
    model = tiny_decoder(case)
    changes = fit_interventions(model, interventions)
    assert_reference(model, changes, requests, sizes, tokenizer=Letters(None))


@pytest.mark.parametrize("case", ["gemma 2", "cohere 2", "gpt-oss"])
def test_what_is_patched_late_attends_to_the_trunk_within_windows_and_soft_caps(case: str) -> None:
    """A branch that carries a few tokens of prompts much longer than a window."""
    model = tiny_decoder(case)
    begin = tuple(range(2, 24))
    requests = [
        LogLikelihood((*begin, n, 7), (n + 1, 9, 4), source=(*begin[::-1], n, 8)) for n in (30, 40)
    ]
    changes = [patch("resid_pre", layer, pos) for layer in range(4) for pos in (-1, -3, 8)]
    changes += [patch("z", 1, -2, head) for head in range(4)]
    assert_reference(model, changes, requests)


def test_what_is_hung_on_a_module_of_the_original_is_refused() -> None:
    model = copy.deepcopy(tiny_decoder("gemma 3"))
    requests = [LogLikelihood((3, 4, 5), (6,))]
    handle = model.original.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    with expect_refusal("has hooks of torch on it"):
        sweep(model, [intact()], requests)
    handle.remove()
    model.original.model.norm.forward = lambda x: x
    with expect_refusal("had its forward replaced"):
        sweep(model, [intact()], requests)


def test_weights_that_are_changed_in_place_are_those_that_are_swept() -> None:
    """Of norms too, whose formula the engine has taken from them."""
    model = copy.deepcopy(tiny_decoder("gemma 3"))
    requests = [LogLikelihood((3, 4, 5), (6, 7))]
    changes = [intact(), skip(1)]
    before = sweep(model, changes, requests)
    model.original.model.layers[2].input_layernorm.weight.data.mul_(1.5)
    fast = sweep(model, changes, requests)
    assert fast.outcomes != before.outcomes
    slow = sweep(model, changes, requests, method="reference")
    assert_agree(model, changes, requests, fast, slow)
