"""Gradient estimates: exact where the metric is linear, slopes elsewhere, beside true patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from layerwise.analyses.attribution_patching.api import attribute_patches, estimated_changes
from layerwise.analyses.attribution_patching.result import agreement_table
from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.patching.cells import Cell, hooked_logprobs
from layerwise.models import load_model
from layerwise.models.instance.kinds import hook_name
from layerwise.storage.parquet import frame
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.models.tiny import tiny_folder, tiny_model
from tests.sweep.models import random_model

CLEAN, OTHER = (1, 7, 3, 9, 12, 5), (1, 8, 3, 9, 20, 5)
ANSWERS = (4, 6)


def cells(sites, n_layers: int, n_heads: int) -> list[Cell]:
    return [
        Cell(site, layer, head, "last", ((pos, pos),))
        for site in sites
        for layer in range(n_layers)
        for head in (range(n_heads) if site in ("z", "pattern") else (None,))
        for pos in (1, 4, 5)
    ] + [Cell("z", 0, 1, "all", tuple((p, p) for p in range(1, 6)))]


def true_changes(model, wanted) -> np.ndarray:
    said = hooked_logprobs(model, CLEAN, OTHER, wanted)
    intact = model(torch.tensor([CLEAN]))[0, -1].detach().double()
    base = float(intact[ANSWERS[0]] - intact[ANSWERS[1]])
    return (said[:, ANSWERS[0]] - said[:, ANSWERS[1]]).numpy() - base


@pytest.mark.parametrize("kind", ["llama-gqa", "gpt2", "neox", "soft-caps"])
def test_estimates_are_the_slope_towards_the_patch(kind):
    """A thousandth of the way, taken by hand, changes the metric by a thousandth of it."""
    model, step = random_model(kind).double(), 1e-3
    try:
        parallel = model.cfg.parallel_attn_mlp
        sites = ("z", "pattern", "resid_pre", "mlp_out") + (() if parallel else ("resid_mid",))
        wanted = cells(sites, 4, 4)[::7]
        (found,) = estimated_changes(model, [(CLEAN, OTHER)], [ANSWERS], wanted)
        for cell, estimate in zip(wanted, found, strict=True):
            assert (nudged(model, cell, step) - nudged(model, cell, -step)) / (
                2 * step
            ) == pytest.approx(estimate, abs=1e-3, rel=1e-2)
        assert np.abs(np.array(found) - true_changes(model, wanted)).max() > 1e-3
    finally:
        model.float()


@pytest.mark.parametrize("kind", ["llama-gqa", "gpt2"])
def test_pairs_side_by_side_are_estimated_as_each_alone(kind):
    model, wanted = random_model(kind), cells(("z", "pattern", "resid_pre"), 4, 4)[::5]
    runs = [(CLEAN, OTHER), (OTHER, CLEAN), (CLEAN[::-1], OTHER[::-1])]
    answers = [ANSWERS, ANSWERS[::-1], (5, 7)]
    found = np.array(estimated_changes(model, runs, answers, wanted))
    alone = [
        estimated_changes(model, [run], [answer], wanted)[0]
        for run, answer in zip(runs, answers, strict=True)
    ]
    np.testing.assert_allclose(found, alone, atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-2


@torch.inference_mode()
def nudged(model, cell: Cell, step: float) -> float:
    name = hook_name(model, cell.layer, cell.site)
    _, cache = model.run_with_cache(torch.tensor([OTHER]))

    def move(x, hook):
        x, there = x.clone(), cache[name]
        for pos, _ in cell.places:
            at = (0, pos) if cell.head is None else (0, pos, cell.head)
            at = (0, cell.head, pos) if cell.site == "pattern" else at
            x[at] = x[at] + step * (there[at] - x[at])
        return x

    logits = model.run_with_hooks(torch.tensor([CLEAN]), fwd_hooks=[(name, move)])[0, -1]
    return float(logits[ANSWERS[0]] - logits[ANSWERS[1]])


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", seed=1)


@pytest.mark.parametrize("backend", ["auto", "hugging-face"])
def test_weights_on_disk_give_the_same(tmp_path, task, backend):
    folder = tiny_folder(tmp_path, "llama")
    found, expected = (
        attribute_patches(
            load_model(folder, backend=backend, offload=place), task, sites=("z",),
            positions="last", sample=3, progress=False,
        ).attribution_patching
        for place in ("disk", None)
    )  # fmt: skip
    pd.testing.assert_frame_equal(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def task(model):
    changes = (("the red door of the what is", "the blue door of the what is"),
               ("the four key is", "the four what is"),
               ("the key by the red what is", "the what by the blue key is"))  # fmt: skip
    items = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(changes)]
    return word_task(items=tuple(items))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_all_cells_are_estimated_and_the_sampled_ones_truly_patched(model, task, direction):
    sites = ("z", "resid_pre")
    result = attribute_patches(
        model, task, sites=sites, direction=direction, positions="last", sample=5, progress=False
    )
    table = result.attribution_patching
    assert list(table.columns) == analysis.documented_columns("attribution_patching.parquet")
    assert len(table) == 3 * (12 + 3)
    true = table.dropna(subset=["patched_diff"])
    assert true.groupby(["site", "item"]).size().to_dict() == {
        (site, f"pair/{i}"): min(5, {"z": 12, "resid_pre": 3}[site])
        for site in sites for i in range(3)
    }  # fmt: skip
    patched = patch_activations(
        model, task, sites=sites, directions=direction, positions="last", progress=False
    ).patching
    key = ["item", "site", "layer", "head"]
    both = true.merge(patched, on=key, suffixes=("", "_true"))
    assert len(both) == len(true)
    np.testing.assert_allclose(both["patched_diff"], both["patched_diff_true"], atol=1e-4)
    base = table["corrupted_diff" if direction == "denoising" else "clean_diff"]
    aim = table["clean_diff" if direction == "denoising" else "corrupted_diff"]
    np.testing.assert_allclose(table["estimated"], (table["estimated_diff"] - base) / (aim - base))
    found = result.agreement()
    assert list(found.columns) == analysis.documented_columns("attribution_agreement.parquet")
    assert found["n_cells"].tolist() == [5, 3]
    assert "rank correlation" in result._repr_html_()


def made_up(n_pairs: int, noise: float, seed: int = 0) -> pd.DataFrame:
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
    table = made_up(8, 0.5)
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
    (exact,) = agreement_table(made_up(5, 0.0), 0).itertuples()
    assert (exact.spearman, exact.spearman_high, exact.largest_error) == pytest.approx((1, 1, 0))
    assert 0 < exact.spearman_low < 1  # five pairs do not settle all ranks
    (none,) = agreement_table(made_up(8, 1000.0), 0).itertuples()
    assert none.spearman_low < 0 < none.spearman_high
    (single,) = agreement_table(made_up(1, 0.5), 0).itertuples()
    assert single.spearman_low is None or np.isnan(single.spearman_low)
