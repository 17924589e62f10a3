"""Damage to files that were made of models: told when they are read, or made anew.

Times of change are hidden from the package here, as if the bit had flipped on the disk itself,
and each load is as in a new process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from layerwise.errors import UserError
from layerwise.models import load_model, model_facts
from layerwise.models.files import cache as cache_module
from layerwise.models.libraries.hooked import has_hooked_transformer
from tests.models.refusal import expect_refusal
from tests.models.test_gguf import write_gguf
from tests.models.tiny import tiny_folder

LITTLE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def prepared_models(tmp_path_factory) -> Path:
    """Models that were loaded before, and the cache of that time."""
    root = tmp_path_factory.mktemp("flipped")
    tiny_folder(root, "llama", **LITTLE).rename(root / "folder")
    write_gguf(root / "file.gguf")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LAYERWISE_CACHE", str(root / "cache"))
        hide_times(patched)
        for name in ("folder", "file.gguf"):
            load_model(root / name)
        if has_hooked_transformer():  # only such models are off-loaded
            load_model(root / "folder", offload="disk")
    return root


def hide_times(patched) -> None:
    """Let a change that keeps the size go unnoticed unless contents are read."""
    patched.setattr(cache_module, "_stamp", lambda path: [path.stat().st_size])


@pytest.fixture
def root(prepared_models, tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(prepared_models, copy)
    monkeypatch.setenv("LAYERWISE_CACHE", str(copy / "cache"))
    hide_times(monkeypatch)
    return copy


def flip(path: Path, bit: int) -> None:
    """Flip a bit and set the times back."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def load_in_new_process(path: Path, **options):
    """Load in a new process: the model's facts, or None if it is refused."""
    cache_module._contents.clear()
    try:
        model = load_model(path, **options)
        now = model_facts(model)
    except UserError:
        return None
    at_load = model.layerwise_origin.facts
    assert at_load == now, "the hash at load is not that of the weights in memory"
    return now


def test_a_file_that_was_added_to_a_conversion_is_told(root):
    (weights,) = (root / "cache" / "gguf").rglob("model.safetensors")
    (weights.parent / "generation_config.json").write_text('{"eos_token_id": 7}')
    with expect_refusal("generation_config.json is not what was written there"):
        load_model(root / "file.gguf")


def test_a_conversion_of_an_older_version_is_made_again(root):
    expected = load_in_new_process(root / "file.gguf")
    (manifest,) = (root / "cache" / "gguf").rglob("*.manifest")
    flip(manifest.with_name("model.safetensors"), 80_000)
    manifest.unlink()
    assert load_in_new_process(root / "file.gguf") == expected


@pytest.mark.hooked_transformer
def test_a_bit_of_a_block_that_flips_after_the_load_is_told_when_it_is_read(root):
    cache_module._contents.clear()
    model = load_model(root / "folder", offload="disk")
    flip(next((root / "cache" / "offload").rglob("blocks.1.safetensors")), 9_000)
    with expect_refusal("blocks.1.safetensors has another SHA-256", "delete that folder"):
        model_facts(model)
