"""Gradient estimates: slopes by hand in every kind of model, beside true patches, and agreement.

Where the truth was planted, they are compared with it in ``test_ground_truth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from layerwise.analyses.attribution_patching.api import attribute_patches, estimated_changes
from layerwise.analyses.attribution_patching.result import agreement_table
from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.patching.cells import (
    HEAD_SITES,
    PATTERNS,
    PatchCell,
    PatchingLayout,
    hooked_logprobs,
)
from layerwise.models import load_model
from layerwise.models.instance.kinds import Model, hook_name, model_inputs
from layerwise.storage.parquet import frame
from tests import analysis
from tests.models.seq2seq.tiny import CASES, tiny_original, tiny_seq2seq
from tests.models.tiny import tiny_folder, tiny_model
from tests.sweep.models import random_model
from tests.test_patching import CHANGES, pair_task

CLEAN, OTHER = (11, 7, 30, 9, 12, 5), (11, 8, 30, 9, 20, 5)
CHANGED = 4
ANSWERS = (14, 26)
BEGINS = 5
DECODERS = ("llama-gqa", "gpt2", "neox", "soft-caps")
# Grouped keys, norms that centre; tied and relative, norms behind and learned positions.
BY_DAY = ("llama-gqa", "gpt2", "t5", "bart")
Cache = Mapping[str, torch.Tensor]


def t5_norm(norm: T5LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """T5's norm in the precision that it is given; its own takes the variance in float32."""
    return norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()


@contextmanager
def in_double(case: str) -> Iterator[Model]:
    """A tiny model in float64, a decoder of two stacks begun with two tokens; some are shared."""
    if case in DECODERS:
        model = random_model(case).double()
        try:
            yield model
        finally:
            model.float()
        return
    model = tiny_seq2seq(case).double()
    model.prefix = (*model.prefix, BEGINS)
    try:
        with (
            patch.object(T5LayerNorm, "forward", t5_norm),
            patch.object(MT5LayerNorm, "forward", t5_norm),
        ):
            yield model
    finally:
        tiny_original(case).float()


def model_sites(model: Model) -> list[str]:
    parallel = getattr(model.cfg, "parallel_attn_mlp", False)
    return [
        s for s in PatchingLayout.for_model(model).sites() if not (parallel and s == "resid_mid")
    ]


def cells(model: Model) -> list[PatchCell]:
    """Every site, layer and head, of both stacks if there are two, at some positions and at all."""
    layout, found = PatchingLayout.for_model(model), []
    for site in model_sites(model):
        for layers, where in layout.parts(site):
            n, one = (len(CLEAN), CHANGED) if where == "prompt" else (2, 1)
            every = tuple((at, at) for at in range(n))
            places = [("one", (every[one],)), ("all", every), ("first", every[:1])]
            for number, layer in enumerate(layers):
                for head in range(layout.heads[layer]) if site in HEAD_SITES else (None,):
                    label, at = places[(number + (head or 0)) % 3]
                    found.append(PatchCell(site, layer, head, label, at))
    return found


@torch.inference_mode()
def slopes(model: Model, cells: list[PatchCell], step: float) -> list[float]:
    """Changes of the logit difference towards the source run, by a small step to both sides."""
    here, there = (
        model.run_with_cache(*model_inputs(model, [tokens]))[1] for tokens in (CLEAN, OTHER)
    )
    return [_slope(model, cell, here, there, step) for cell in cells]


def _slope(model: Model, cell: PatchCell, here: Cache, there: Cache, step: float) -> float:
    name = hook_name(model, cell.layer, cell.site)

    def nudged(step: float) -> float:
        def move(x: torch.Tensor, hook: object) -> torch.Tensor:
            x = x.clone()
            for pos, _ in cell.places:
                at = (0, pos) if cell.head is None else (0, pos, cell.head)
                at = (0, cell.head, pos) if cell.site in PATTERNS else at
                x[at] += step * (there[name][at] - here[name][at])
            return x

        logits = model.run_with_hooks(*model_inputs(model, [CLEAN]), fwd_hooks=[(name, move)])
        return float(logits[0, -1, ANSWERS[0]] - logits[0, -1, ANSWERS[1]])

    return (nudged(step) - nudged(-step)) / (2 * step)


@pytest.mark.long(but=["llama-gqa", "gpt2", "t5"])
@pytest.mark.parametrize(
    "case", [case if case in BY_DAY else pytest.param(case, marks=pytest.mark.long)
             for case in (*DECODERS, *CASES)]
)  # fmt: skip
def test_estimates_are_slopes_at_every_site(case: str):
    with in_double(case) as model:
        wanted, sites = cells(model), set(model_sites(model))
        wanted = wanted[::3] if case in DECODERS else wanted
        assert {cell.site for cell in wanted} == sites
        (found,) = estimated_changes(model, [(CLEAN, OTHER)], [ANSWERS], wanted)
        # TransformerLens takes norms in float32 all the same.
        step, rtol, atol = (1e-3, 1e-2, 1e-3) if case in DECODERS else (1e-4, 1e-4, 1e-6)
        np.testing.assert_allclose(found, slopes(model, wanted, step), rtol=rtol, atol=atol)
        seen = {cell.site for cell, change in zip(wanted, found, strict=True) if abs(change) > 1e-3}
        assert seen == sites or case in DECODERS  # of which there are fewer cells
        # and no true patches, which go the whole way
        said = hooked_logprobs(model, CLEAN, OTHER, wanted[:9])
        intact = model(*model_inputs(model, [CLEAN]))[0, -1].detach()
        base = float(intact[ANSWERS[0]] - intact[ANSWERS[1]])
        true = (said[:, ANSWERS[0]] - said[:, ANSWERS[1]]).numpy() - base
        assert np.abs(true - found[:9]).max() > 1e-3


@pytest.mark.parametrize("case", ["llama-gqa", "gpt2"])
def test_pairs_side_by_side_are_estimated_as_each_alone(case: str):
    model = random_model(case)
    wanted = cells(model)[::5]
    runs = [(CLEAN, OTHER), (OTHER, CLEAN), (CLEAN[::-1], OTHER[::-1])]
    answers = [ANSWERS, ANSWERS[::-1], (5, 7)]
    found = np.array(estimated_changes(model, runs, answers, wanted))
    alone = [
        estimated_changes(model, [run], [answer], wanted)[0]
        for run, answer in zip(runs, answers, strict=True)
    ]
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-2


@pytest.mark.parametrize("backend", ["auto", "hugging-face"])
def test_weights_on_disk_give_the_same(tmp_path, backend):
    folder, task = (
        tiny_folder(tmp_path, "llama"),
        pair_task(tiny_model("llama", seed=1), CHANGES[2:]),
    )
    found, expected = (
        attribute_patches(
            load_model(folder, backend=backend, offload=place), task, sites=("z",),
            positions="last", sample=3, progress=False,
        ).attribution_patching
        for place in ("disk", None)
    )  # fmt: skip
    pd.testing.assert_frame_equal(found, expected, atol=1e-5)


OF_TWO = ("resid_pre", "z", "cross_attn_out", "cross_z", "cross_v")


# By day each direction and each beginning.
@pytest.mark.long(but=["llama-denoising-0", "bart-noising-1"])
@pytest.mark.parametrize(
    ("case", "direction", "begins"),
    [
        ("llama", "denoising", 0), ("llama", "noising", 0),
        ("bart", "denoising", 2), ("bart", "noising", 1),
        pytest.param("bart", "denoising", 1, marks=pytest.mark.long),
        pytest.param("bart", "noising", 2, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_all_cells_are_estimated_and_sampled_ones_truly_patched(case, direction, begins):
    if case == "llama":
        model, sites, positions = tiny_model("llama", seed=1), ("z", "resid_pre"), ("last",)
    else:
        model, sites = tiny_seq2seq(case), OF_TWO
        model.prefix = (*model.prefix, BEGINS)[:begins]
        positions = ("before", "last", "answer", "all", *["start"] * (begins > 1))
    asked: dict[str, Any] = {"sites": sites, "positions": positions, "progress": False}
    task = pair_task(model, CHANGES[2:])
    result = attribute_patches(model, task, direction=direction, sample=10, **asked)
    table = result.attribution_patching
    patched = patch_activations(model, task, directions=direction, **asked).patching
    key = ["item", "site", "layer", "head", "pos_label", "pos"]
    both = table.merge(patched, on=key, suffixes=("", "_true"), validate="one_to_one")
    assert len(both) == len(table) == len(patched)
    sampled = both.dropna(subset=["patched_diff"])
    cell = ["site", "layer", "head", "pos_label"]
    every, some = (t.drop_duplicates(cell).groupby("site").size() for t in (table, sampled))
    assert some.to_dict() == every.clip(upper=10).to_dict()
    assert every.max() > 10
    np.testing.assert_allclose(sampled["patched_diff"], sampled["patched_diff_true"], atol=1e-4)
    base = table["corrupted_diff" if direction == "denoising" else "clean_diff"]
    aim = table["clean_diff" if direction == "denoising" else "corrupted_diff"]
    np.testing.assert_allclose(table["estimated"], (table["estimated_diff"] - base) / (aim - base))
    assert list(result.agreement().columns) == analysis.documented_columns(
        "attribution_agreement.parquet"
    )
    assert result.agreement()["n_cells"].tolist() == some.loc[list(sites)].tolist()
    assert "rank correlation" in result._repr_html_()


def made_up_estimates(n_pairs: int, noise: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    effects = rng.normal(size=20)
    for pair in range(n_pairs):
        for layer in range(20):
            true = effects[layer] + 0.1 * rng.normal()
            rows.append(
                {
                    "task": "keys", "capability": "retrieval", "item": f"keys/{pair}",
                    "protocol": "continuation", "direction": "denoising", "site": "z",
                    "layer": layer, "head": 0, "pos": 3, "pos_label": "last", "clean_diff": 2.0,
                    "corrupted_diff": -2.0, "estimated_diff": true - 2 + noise * rng.normal(),
                    "estimated": 0.0, "patched_diff": true - 2 if layer != 7 else None,
                    "recovered": 0.0,
                }
            )  # fmt: skip
    return frame("attribution_patching", rows)


def test_agreement_is_the_rank_correlation_of_means():
    table = made_up_estimates(8, 0.5)
    (row,) = agreement_table(table, 0).itertuples()
    means = (
        table.dropna(subset="patched_diff")
        .groupby("layer")[["estimated_diff", "patched_diff"]]
        .mean()
    )
    expected = scipy.stats.spearmanr(means["estimated_diff"], means["patched_diff"]).statistic
    assert row.spearman == pytest.approx(expected)
    assert row.spearman_low <= row.spearman <= row.spearman_high
    gap = (means["estimated_diff"] - means["patched_diff"]).abs()
    assert (row.median_error, row.largest_error) == pytest.approx((gap.median(), gap.max()))
    assert (row.n_items, row.n_cells) == (8, 19)


def test_agreement_is_whole_without_noise_and_none_by_chance():
    (exact,) = agreement_table(made_up_estimates(5, 0.0), 0).itertuples()
    assert (exact.spearman, exact.spearman_high, exact.largest_error) == pytest.approx((1, 1, 0))
    assert 0 < exact.spearman_low < 1  # five pairs do not settle all ranks
    (none,) = agreement_table(made_up_estimates(8, 1000.0), 0).itertuples()
    assert none.spearman_low < 0 < none.spearman_high
    (single,) = agreement_table(made_up_estimates(1, 0.5), 0).itertuples()
    assert single.spearman_low is None or np.isnan(single.spearman_low)
