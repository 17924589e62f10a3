"""Gradient estimates in both stacks: slopes by hand in every family, and true patches in the limit.

Where the truth was planted, they are held to it in ``test_ground_truth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import layerwise as lw
from layerwise.analyses.attribution_patching.api import estimated_changes
from layerwise.analyses.patching.cells import (
    HEAD_SITES,
    PATCH_SITES,
    PATTERNS,
    Cell,
    PatchingLayout,
)
from layerwise.models.instance.kinds import hook_name
from layerwise.models.seq2seq import Seq2SeqModel
from tests.analysis import prompt_pair, word_task
from tests.models.seq2seq.tiny import CASES, tiny_original, tiny_seq2seq

CLEAN, OTHER = (11, 7, 30, 9, 12, 5), (11, 8, 30, 9, 20, 5)
CHANGED = 4
ANSWERS = (14, 26)
BEGINS = 5
ROUNDING = 1e-6
Cache = Mapping[str, torch.Tensor]
# Tied and relative, untied and gated, norms behind and learned positions, norms before and
# sinusoids. By day true patches are compared in configurations drawn from all.
BY_DAY = ("t5", "flan-t5", "bart", "pegasus-scaled")
CHANGES = (
    ("the key by the red what is", "the what by the blue key is"),
    ("the four key is", "the four what is"),
)


def normed(norm: T5LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """T5's norm in the precision that it is given; its own takes the variance in float32."""
    return norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()


@contextmanager
def in_double(case: str) -> Iterator[Seq2SeqModel]:
    """A tiny model in float64, its decoder begun with two tokens; originals are shared."""
    model = tiny_seq2seq(case).double()
    model.prefix = (*model.prefix, BEGINS)
    try:
        with (
            patch.object(T5LayerNorm, "forward", normed),
            patch.object(MT5LayerNorm, "forward", normed),
        ):
            yield model
    finally:
        tiny_original(case).float()


def cells(model: Seq2SeqModel) -> list[Cell]:
    """Every site, layer and head of both stacks, at some positions and at all."""
    layout, found = PatchingLayout.of(model), []
    for site in PATCH_SITES:
        for layers, where in layout.parts(site):
            n, one = (len(CLEAN), CHANGED) if where == "prompt" else (2, 1)
            every = tuple((at, at) for at in range(n))
            places = [("one", (every[one],)), ("all", every), ("first", every[:1])]
            for number, layer in enumerate(layers):
                for head in range(layout.heads[layer]) if site in HEAD_SITES else (None,):
                    label, at = places[(number + (head or 0)) % 3]
                    found.append(Cell(site, layer, head, label, at))
    return found


@torch.inference_mode()
def slopes(model: Seq2SeqModel, cells: list[Cell], step: float = 1e-4) -> list[float]:
    """Changes of the logit difference towards the source run, by a small step to both sides."""
    begun = torch.tensor([model.prefix])
    _, there = model.run_with_cache(torch.tensor([OTHER]), begun)
    _, here = model.run_with_cache(torch.tensor([CLEAN]), begun)
    return [_slope(model, cell, here, there, step) for cell in cells]


def _slope(model: Seq2SeqModel, cell: Cell, here: Cache, there: Cache, step: float) -> float:
    name, begun = hook_name(model, cell.layer, cell.site), torch.tensor([model.prefix])

    def nudged(step: float) -> float:
        def move(x: torch.Tensor, hook: object) -> torch.Tensor:
            x = x.clone()
            for pos, _ in cell.places:
                at = (0, pos) if cell.head is None else (0, pos, cell.head)
                at = (0, cell.head, pos) if cell.site in PATTERNS else at
                x[at] += step * (there[name][at] - here[name][at])
            return x

        logits = model.run_with_hooks(torch.tensor([CLEAN]), begun, fwd_hooks=[(name, move)])
        return float(logits[0, -1, ANSWERS[0]] - logits[0, -1, ANSWERS[1]])

    return (nudged(step) - nudged(-step)) / (2 * step)


@pytest.mark.parametrize(
    "case", [case if case in BY_DAY else pytest.param(case, marks=pytest.mark.long)
             for case in CASES]
)  # fmt: skip
def test_estimates_are_slopes_at_every_site_of_both_stacks(case: str):
    with in_double(case) as model:
        wanted = cells(model)
        assert {cell.site for cell in wanted} == set(PATCH_SITES)
        (found,) = estimated_changes(model, [(CLEAN, OTHER)], [ANSWERS], wanted)
        by_hand = slopes(model, wanted)
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=ROUNDING)
        seen = {cell.site for cell, change in zip(wanted, found, strict=True) if abs(change) > 1e-3}
        assert seen == set(PATCH_SITES)


# By day each direction and each beginning.
@pytest.mark.parametrize(
    ("direction", "begins"),
    [
        ("denoising", 2), ("noising", 1),
        pytest.param("denoising", 1, marks=pytest.mark.long),
        pytest.param("noising", 2, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_all_cells_are_estimated_and_sampled_ones_truly_patched(direction: str, begins: int):
    model = tiny_seq2seq("bart")
    model.prefix = (*model.prefix, BEGINS)[:begins]
    task = word_task(
        items=tuple(prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(CHANGES))
    )
    options = {"sites": ("resid_pre", "z", "cross_attn_out", "cross_z", "cross_v"),
               "positions": ("before", "last", "start", "answer", "all")}  # fmt: skip
    if begins == 1:
        options["positions"] = tuple(p for p in options["positions"] if p != "start")
    table = lw.attribute_patches(
        model, task, direction=direction, sample=10, progress=False, **options
    ).attribution_patching
    patched = lw.patch_activations(
        model, task, directions=direction, progress=False, **options
    ).patching
    key = ["item", "site", "layer", "head", "pos_label", "pos"]
    both = table.merge(patched, on=key, suffixes=("", "_true"), validate="one_to_one")
    assert len(both) == len(table) == len(patched)
    sampled = both.dropna(subset=["patched_diff"])
    cell = ["site", "layer", "head", "pos_label"]
    every, some = (t.drop_duplicates(cell).groupby("site").size() for t in (table, sampled))
    assert some.to_dict() == every.clip(upper=10).to_dict()
    assert every.max() > 10
    assert {"all", "answer", "last"} <= set(sampled["pos_label"])
    np.testing.assert_allclose(sampled["patched_diff"], sampled["patched_diff_true"], atol=1e-4)
