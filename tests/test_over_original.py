"""Every analysis over a model's own modules: as through TransformerLens, and of other families."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.models import load_model, model_facts
from tests.analysis import prompt_pair, word_task
from tests.cases import few_by_day
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.refusal import expect_refusal
from tests.models.tiny import tiny_folder
from tests.test_attribution import WHOLE, attribute, sums

TASK = word_task(3)
SITES = ("resid_pre", "attn_out", "mlp_out", "z", "pattern")
RECEIVERS = ("logits", "q:1.2", "k:2.1", "v:2.0", "mlp:1")


@pytest.fixture(scope="module")
def load_both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tiny_folder(tmp_path_factory.mktemp("both"), "llama", seed=1)
    return [load_model(folder, backend=name) for name in ("transformer-lens", "hugging-face")]


def pairs(model: Any) -> lw.Task:
    items = [
        prompt_pair(model, "pair/0", "the red door of the what is", "the blue door of the what is"),
        prompt_pair(model, "pair/1", "the four key is", "the four what is"),
    ]
    return word_task(items=tuple(item for item in items if item is not None))


def on_pairs(analysis: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda model, **more: analysis(model, pairs(model), **options, **more)


def on_words(analysis: Callable[..., Any], *protocols: str, **options: Any) -> Callable[..., Any]:
    return lambda model, **more: analysis(model, TASK, *protocols, **options, **more)


ANALYSES: dict[str, tuple[str, Callable[..., Any]]] = {
    "skips": ("records", on_words(lw.ablate)),
    "means of heads": ("records", on_words(lw.ablate, kind="mean", site="z")),
    "resampled": ("records", on_words(lw.ablate, kind="resample", site="mlp_out")),
    "lens": ("lens", on_words(lw.logit_lens, "continuation")),
    "attribution": ("attribution", on_words(lw.attribution, "continuation")),
    "heads": ("heads", partial(lw.head_scores, sequences=3, length=12)),
    "patching": ("patching", on_pairs(lw.patch_activations, sites=SITES)),
    "attribution patching": (
        "attribution_patching", on_pairs(lw.attribute_patches, sites=("z", "mlp_out"), sample=4)
    ),
    "paths": ("path_patching", on_pairs(lw.patch_paths, receivers=RECEIVERS)),
    "similarity": ("similarity", on_words(lw.similarity)),
    "interactions": ("interactions", on_words(lw.interactions, "continuation")),
    "removal": ("removal", on_words(lw.removal_order, "continuation", n_removed=2)),
}  # fmt: skip


def assert_same_tables(name: str, models: list[Any]) -> None:
    """Hold two models to the same table of an analysis, by its key in ``ANALYSES``."""
    table, run = ANALYSES[name]
    one, other = (getattr(run(model, progress=False), table) for model in models)
    assert list(one.columns) == list(other.columns)
    assert len(one)
    for column in one.columns:
        mine, theirs = one[column], other[column]
        if pd.api.types.is_float_dtype(mine):
            np.testing.assert_allclose(mine, theirs, atol=5e-4, rtol=1e-3, err_msg=column)
        else:
            pd.testing.assert_series_equal(mine, theirs)


# By day one that skips, and one that reads weights.
@pytest.mark.parametrize(
    "name",
    few_by_day(ANALYSES, "skips", "attribution"),
)
def test_both_backends_give_the_same_tables(name: str, load_both: list[Any]) -> None:
    assert_same_tables(name, load_both)


@pytest.mark.long
def test_a_run_and_its_page_say_what_ran_the_model(load_both: list[Any]) -> None:
    for model, name in zip(load_both, ("transformer-lens", "hugging-face"), strict=True):
        result = lw.ablate(model, TASK, "continuation", progress=False)
        assert result.facts.model.backend == model_facts(model).backend == name
        assert f"<td>{name}</td>" in lw.report([result]).html


@pytest.mark.long(but=["gemma 3", "granite", "phi"])
@pytest.mark.parametrize("case", ["gemma 2", "gemma 3", "olmo 2", "granite", "cohere 2", "phi"])
def test_parts_of_every_kind_of_layer_sum_to_what_is_attributed(case: str, tmp_path: Path) -> None:
    """Norms behind sublayers, scales, soft-caps, and norms whose weight is one more."""
    table = attribute(
        load_model(tiny_family_folder(case, tmp_path, max_position_embeddings=256)), TASK
    )
    total = sums(table, ["total"], "metric")
    np.testing.assert_allclose(sums(table, WHOLE, "metric"), total, atol=1e-4)
    by_head = sums(table, ["z", "attn_bias"], "metric", "layer")
    np.testing.assert_allclose(by_head, sums(table, ["attn_out"], "metric", "layer"), atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("case", ["gemma 3", "smollm 3"])
def test_a_model_without_layers_is_what_skips_foretell(case: str, tmp_path: Path) -> None:
    model = load_model(tiny_family_folder(case, tmp_path, max_position_embeddings=256))
    result = lw.prune_model(model, [1], tmp_path / "pruned", TASK, "continuation")
    assert result.facts.model.backend == "hugging-face"
    assert load_model(tmp_path / "pruned").cfg.n_layers == 3


@pytest.mark.long
@pytest.mark.parametrize("site", ["attn_out", "z"])
def test_transplants_are_the_same_by_either_backend(site: str, tmp_path: Path) -> None:
    folders = [tiny_folder(tmp_path, "llama", seed=seed) for seed in (0, 1)]
    found = []
    for backend in ("transformer-lens", "hugging-face"):
        base, other = (load_model(folder, backend=backend) for folder in folders)
        result = lw.transplant(base, other, TASK, "continuation", site=site, progress=False)
        found.append(result)
    for table in ("transplant", "transplant_distances"):
        one, other = (getattr(result, table) for result in found)
        measured = ["gold_logprob"]
        if table == "transplant_distances":  # TransformerLens has biases of zeros beside
            one, other = (each[each["site"] != "outside"] for each in (one, other))
            measured = ["norm", "distance"]
        np.testing.assert_allclose(one[measured], other[measured], atol=1e-4)
        pd.testing.assert_series_equal(one["layer"], other["layer"])


def test_transplants_between_backends_are_refused_in_a_sentence(load_both: list[Any]) -> None:
    with expect_refusal(
        "the backend is 'transformer-lens' in the base", "'hugging-face' in the other"
    ):
        lw.transplant(load_both[0], load_both[1], TASK, progress=False)
