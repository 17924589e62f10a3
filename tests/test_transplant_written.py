"""The base with layers of the other, written as a folder: the same model, and the same recipe."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import layerwise as lw
from layerwise.analyses.transplant.exchange.spec import TransplantSpec
from layerwise.analyses.transplant.exchange.weights import use_donor_weights
from layerwise.analyses.transplant.exchange.writing import write_merged_model
from layerwise.errors import UserError
from layerwise.sweep import intact, sweep
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.seq2seq.tiny import tiny_folder as seq2seq_folder
from tests.models.tiny import session_folder, tiny_folder
from tests.planted import small_model
from tests.transplanting import LAYOUT, word_requests


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setenv("LAYERWISE_CACHE", str(session_folder() / "cache"))


def pair(tmp_path: Path, family: str) -> tuple[Any, Any]:
    if family == "t5":
        first, second = seq2seq_folder("t5"), tmp_path / "other"
        shutil.copytree(first, second)
        weights = {k: 1.1 * v for k, v in load_file(first / "model.safetensors").items()}
        save_file(weights, second / "model.safetensors", {"format": "pt"})
        return lw.load_model(first), lw.load_model(second)
    if family in OWN:
        folders = [tiny_family_folder(family, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
        return tuple(map(lw.load_model, folders))
    return tuple(lw.load_model(tiny_folder(tmp_path, family, seed=seed)) for seed in (0, 1))


OWN = ("gemma 2", "deepseek 3", "cohere 2")


def make_spec(base: Any, other: Any, site: str = "layer", layers: tuple[int, ...] = ()) -> Any:
    return TransplantSpec.for_models(base, other, site, layers, ["single"], 1, bool(layers))


CASES = [("qwen2", "layer", (0, 2)), ("gpt2", "attn_out", (1,)), ("qwen3", "mlp_out", (1, 2))]


@pytest.mark.long(but=["deepseek 3-layer-layers3", "t5-layer-layers2"])
@pytest.mark.parametrize(
    ("family", "site", "layers"),
    [
        *CASES[:2], ("t5", "layer", (1, 3)), ("deepseek 3", "layer", (1, 2)),
        # Others have their names of weights, and others theirs of the site.
        *in_long_runs(
            CASES[2], ("qwen3", "unembed", ()), ("gpt2", "embed", ()), ("t5", "embed", ()),
            ("llama", "ln_final", ()), ("gemma 2", "attn_out", (1,)),
            ("gemma 2", "mlp_out", (0, 2)), ("cohere 2", "unembed", ()),
        ),
    ],
)  # fmt: skip
def test_the_folder_answers_as_the_exchange_in_memory(tmp_path, family, site, layers):
    base, other = pair(tmp_path, family)
    spec, out = make_spec(base, other, site, layers), tmp_path / "out"
    write_merged_model(base, other, spec, out)
    asked = word_requests(base)
    with use_donor_weights(base, other, spec.site, spec.layers):
        (expected,) = sweep(base, [intact()], asked).outcomes
    (found,) = sweep(lw.load_model(out), [intact()], asked).outcomes
    assert found == expected
    assert (sweep(base, [intact()], asked).outcomes[0] == expected) is False
    assert (out / "mergekit.yaml").exists() == (family != "t5")
    assert not (out / ".writing").exists()


def merged_by_recipe(path: Path) -> dict:
    """Linear merge by a recipe, as mergekit reads weights by filters of names."""
    recipe = yaml.safe_load(path.read_text("utf-8"))
    assert recipe["merge_method"] == "linear"
    assert recipe["dtype"] == "float32"
    assert recipe["base_model"] == recipe["models"][0]["model"]
    tensors = [load_file(Path(one["model"]) / "model.safetensors") for one in recipe["models"]]

    def weight(number: int, name: str) -> float:
        settings = recipe["models"][number]["parameters"]["weight"]
        return next(s["value"] for s in settings if s.get("filter", "") in name)

    return {
        name: sum(weight(i, name) * of[name] for i, of in enumerate(tensors))
        / sum(weight(i, name) for i in range(2))
        for name in tensors[0]
    }


@pytest.mark.long(but=["qwen2-layer-layers0"])
@pytest.mark.parametrize(("family", "site", "layers"), CASES)
def test_the_recipe_means_the_same_as_the_folder(tmp_path, family, site, layers):
    base, other = pair(tmp_path, family)
    out = tmp_path / "out"
    write_merged_model(base, other, make_spec(base, other, site, layers), out)
    merged, written = merged_by_recipe(out / "mergekit.yaml"), load_file(out / "model.safetensors")
    assert merged.keys() == written.keys()
    assert all((merged[name] == tensor).all() for name, tensor in written.items())


@pytest.mark.long
def test_the_same_command_leaves_the_folder_and_mends_it(tmp_path):
    base, other = pair(tmp_path, "llama")
    spec, out = make_spec(base, other, layers=(1,)), tmp_path / "out"
    (out / ".writing").mkdir(parents=True)  # of a call that was killed
    write_merged_model(base, other, spec, out)
    stamp = os.stat(out / "model.safetensors").st_mtime_ns
    write_merged_model(base, other, spec, out)
    assert os.stat(out / "model.safetensors").st_mtime_ns == stamp
    made = json.loads((out / "transplant.json").read_text())
    assert (made["site"], made["layers"]) == ("layer", [1])
    good = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(b"damaged")
    write_merged_model(base, other, spec, out)
    assert (out / "model.safetensors").read_bytes() == good
    with pytest.raises(UserError, match="is not empty: expected a new or empty folder"):
        write_merged_model(base, other, make_spec(base, other, layers=(2,)), out)


@pytest.mark.long
def test_the_option_writes_all_named_layers_beside_the_run(tmp_path):
    base, other = pair(tmp_path, "llama")
    lw.transplant(base, other, word_task(4), layers=[0, 2], write=tmp_path / "out", progress=False)
    made = json.loads((tmp_path / "out" / "transplant.json").read_text())
    assert made["layers"] == [0, 2]


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    base, other = pair(tmp_path, "llama")
    out = tmp_path / "out"
    for options, named in (
        ({"site": "z"}, "A model with site 'z' of another cannot be written"),
        ({"exchange": "activations"}, "A model with activations of another cannot be written"),
    ):
        with pytest.raises(UserError, match=re.escape(named)):
            lw.transplant(base, other, word_task(4), write=out, progress=False, **options)
    wired = small_model(LAYOUT)
    with pytest.raises(UserError, match="no Hugging Face original to write from"):
        write_merged_model(wired, wired, make_spec(wired, wired, layers=(1,)), out)
    # files whose names tell something else than what is exchanged
    monkeypatch.setattr(
        "layerwise.analyses.transplant.exchange.writing.tensor_names",
        lambda *_: ["model.layers.2.mlp.up_proj.weight"],
    )
    with pytest.raises(UserError, match="is not the exchange in memory: the weight"):
        write_merged_model(base, other, make_spec(base, other, layers=(1,)), out)
    assert not out.exists() or not list(out.iterdir())


def test_a_donor_that_is_stored_otherwise_is_refused(tmp_path):
    folders = [tiny_folder(tmp_path, "llama", seed=seed) for seed in (0, 1)]
    weights = load_file(folders[1] / "model.safetensors")
    base, other = (lw.load_model(folder) for folder in folders)
    weights["renamed"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folders[1] / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"has no tensor 'model\.layers\.1\.mlp\.up_proj"):
        write_merged_model(base, other, make_spec(base, other, layers=(1,)), tmp_path / "out")
