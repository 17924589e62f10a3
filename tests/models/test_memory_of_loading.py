"""Memory at load: weights are taken out of the original one by one, and mapped files let go."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from layerwise.models import load_model
from layerwise.models.conversion import backends, convert, parity
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import load_original, load_tokenizer
from layerwise.models.weights.mapped_memory import mapped_memory_releaser, release_freed_memory
from tests.conftest import COLLECT
from tests.models.tiny import tiny_folder

pytestmark = pytest.mark.hooked_transformer

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the system of Linux")


def resident_bytes(weight: torch.Tensor) -> int:
    """Bytes of a weight that are in this process's memory."""
    start, end = weight.data_ptr(), weight.data_ptr() + weight.nbytes
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(place, 16) for place in first.split("-"))
            inside = low < end and start < high
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


@LINUX
def test_a_mapped_weight_is_let_go_and_read_again(tmp_path):
    from safetensors import safe_open

    drawn = {name: torch.randn(1000, 1000) for name in "ab"}
    save_file(drawn, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        first, second = stored.get_tensor("a"), stored.get_tensor("b")
    assert torch.equal(first, drawn["a"])
    assert torch.equal(second, drawn["b"])
    before = resident_bytes(first)
    assert before >= 7_900_000
    with mapped_memory_releaser() as let_go:
        let_go(first.T.unflatten(0, (10, 100)))  # what conversions make of it
    assert resident_bytes(first) <= before - 3_900_000
    assert torch.equal(first, drawn["a"])


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_the_original_has_no_weights_once_the_hooked_model_has_them(tmp_path, monkeypatch, family):
    folder = tiny_folder(tmp_path, family)
    config = read_config(folder)
    original = load_original(folder, config, torch.bfloat16)
    seen: list[weakref.ref[torch.Tensor]] = []
    copy_of = convert._own

    def own(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # A tied embedding is kept for the unembedding.
        assert sum(earlier() is not None for earlier in seen) <= 1
        seen.append(weakref.ref(weight))
        return copy_of(weight, dtype)

    monkeypatch.setattr(convert, "_own", own)
    cfg = convert.hooked_config(folder, "tiny", config, torch.float32)
    convert.hooked_model(cfg, original, load_tokenizer(folder, config))
    assert len(seen) > 20
    assert all(parameter.is_meta for parameter in original.parameters())


def test_the_original_stands_alone_when_it_is_asked(tmp_path, monkeypatch):
    """Its answers are written down before there is a hooked model, which takes its weights."""
    happened: list[str] = []

    def noted(module: Any, name: str) -> None:
        called = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (happened.append(name), called(*given))[1])

    noted(parity, "reference")
    noted(backends, "hooked_model")
    noted(backends, "load_original")
    folder = tiny_folder(tmp_path, "llama")
    load_model(folder)
    assert happened == ["load_original", "reference", "hooked_model"]
    happened.clear()
    load_model(folder, dtype="bfloat16")
    once = ["load_original", "reference", "hooked_model"]
    assert happened == [*once, "load_original", "hooked_model"]


def test_what_holds_only_itself_is_freed(monkeypatch):
    monkeypatch.setattr(gc, "collect", COLLECT)

    class Ring:
        pass

    ring = Ring()
    ring.ring = ring  # pyright: ignore[reportAttributeAccessIssue]
    held = weakref.ref(ring)
    gc.disable()
    try:
        del ring
        assert held() is not None
        release_freed_memory()
        assert held() is None
    finally:
        gc.enable()
