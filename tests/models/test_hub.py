"""The hub: its errors as sentences, and its local cache without a network."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from layerwise.models import load_model, model_facts
from tests.models.refusal import refused
from tests.models.tiny import tiny_folder

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
    with refused("owner/name", *parts):
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
    with refused("'owner/tiny' is not in the local hub cache", "connect"):
        load_model("owner/tiny")


def test_offline_and_cached(offline, tmp_path):
    put_into_hub_cache(offline, tiny_folder(tmp_path, "gpt2"))
    facts = model_facts(load_model("owner/tiny"))
    assert (facts.name, facts.source) == ("owner/tiny", "hub")


def test_a_cached_repository_with_pickles_alone(offline, tmp_path):
    folder = tiny_folder(tmp_path, "gpt2")
    (folder / "model.safetensors").unlink()
    put_into_hub_cache(offline, folder)
    with refused("has no weights", "pickled weights are not accepted"):
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
