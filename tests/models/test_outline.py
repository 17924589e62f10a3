from __future__ import annotations

import huggingface_hub
import pytest

from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.files.folder import has_weights
from layerwise.models.huggingface.meta_model import (
    facts_of_meta_model,
    is_meta_model,
    load_meta_model,
)
from tests.models.tiny import FAMILIES, tiny_folder


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "mixtral"])
def test_an_outline_has_the_shapes_of_the_model(tmp_path, family):
    folder = tiny_folder(tmp_path, family)
    assert family in FAMILIES
    model, outline = load_model(folder), load_meta_model(folder)
    shapes = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in outline.named_parameters()} == shapes
    assert is_meta_model(outline)
    assert not is_meta_model(model)
    known, told = model_facts(model), facts_of_meta_model(outline)
    for name in ("name", "n_layers", "n_heads", "n_key_value_heads", "d_model", "d_vocab", "n_ctx"):
        assert getattr(told, name) == getattr(known, name)
    text = "the red key opens"
    assert original_tokenizer(outline)(text).input_ids == original_tokenizer(model)(text).input_ids


def test_an_outline_needs_no_weights_and_takes_no_memory(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    assert has_weights(folder)
    (folder / "model.safetensors").unlink()
    assert not has_weights(folder)
    outline = load_meta_model(folder, dtype="bfloat16")
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert (facts_of_meta_model(outline).dtype, facts_of_meta_model(outline).device) == (
        "bfloat16",
        "cpu",
    )


def test_of_the_hub_no_weights_are_asked_for(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    asked: list[str] = []

    def fetch(hub_id, **patterns):
        asked.extend(filter_repo_objects(files, **patterns))
        return str(tiny_folder(tmp_path, "gpt2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert facts_of_meta_model(load_meta_model("owner/name")).name == "owner/name"
    assert asked == [name for name in files if name != "model.safetensors"]
