"""A folder's name and place say nothing about the architecture in it."""

from __future__ import annotations

import os
import tempfile

import pytest

from layerwise.models import load_model, model_facts
from tests.models.refusal import refused
from tests.models.tiny import tiny_folder


@pytest.mark.parametrize("name", ["llama-7b", "my-gemma-2-2b", "wav2vec2-base", "NeelNanda", "t5"])
def test_a_misleading_name_misleads_nobody(tmp_path, monkeypatch, name):
    tiny_folder(tmp_path, "qwen2").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    model = load_model(f"./{name}" if name == "t5" else name)
    assert model.cfg.original_architecture == "Qwen2ForCausalLM"
    assert model_facts(model).parity < 1e-3
    assert name in model.cfg.model_name


@pytest.mark.hooked_transformer
def test_a_misleading_folder_for_temporary_files(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path, "gpt2")
    place = tmp_path / "llama" / "tmp"
    place.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with refused("llama", "set TMPDIR"):
        load_model(folder)
    monkeypatch.chdir(place.parent)
    assert load_model(folder).cfg.original_architecture == "GPT2LMHeadModel"
    assert list(place.iterdir()) == []


def test_an_alias_goes_before_a_folder_and_a_folder_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("owner")
    tiny_folder(tmp_path, "gpt2").rename("owner/name")
    assert model_facts(load_model("owner/name")).source == "folder"
    os.mkdir("smollm2-135m")
    with refused("is no model folder"):
        load_model("./smollm2-135m")
