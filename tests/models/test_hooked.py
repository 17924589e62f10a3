"""TransformerLens's own models, where the installed release has them, and where it has not."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.models import load_model, model_facts
from layerwise.models.conversion import backends, convert
from layerwise.models.decoder import DecoderModel
from layerwise.models.libraries import hooked
from layerwise.models.meta_model import load_meta_model
from tests.models.refusal import expect_refusal
from tests.models.tiny import tiny_folder

NAMES = (
    "AbstractAttention", "Attention", "Embed", "GatedMLP", "GroupedQueryAttention",
    "HookedTransformer", "HookedTransformerConfig", "LayerNorm", "LayerNormPre", "MLP", "PosEmbed",
    "RMSNorm", "RMSNormPre", "TransformerBlock", "Unembed",
)  # fmt: skip


@pytest.fixture
def without_hooked_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a release were installed that has no models."""
    for module in (hooked, convert, backends):
        monkeypatch.setattr(module, "has_hooked_transformer", lambda: False)


def test_what_is_not_there_is_a_class_of_nothing(monkeypatch, tmp_path):
    elsewhere = ModuleSpec("transformer_lens", None)
    elsewhere.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere)
    spec = importlib.util.spec_from_file_location(f"{hooked.__name__}_without", hooked.__file__)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.has_hooked_transformer()
    for name in NAMES:
        assert name in vars(hooked)
        absent = getattr(module, name)
        assert not isinstance(torch.nn.Linear(1, 1), absent)
        with pytest.raises(TypeError, match=f"has no {name}"):
            absent()


@pytest.mark.usefixtures("without_hooked_transformer")
def test_without_them_decoders_run_over_their_own_modules(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "qwen2")
    assert isinstance(load_model(folder), DecoderModel)
    assert model_facts(load_model("organism-decoder")).backend == "hugging-face"
    assert isinstance(load_meta_model(folder), DecoderModel)
    with expect_refusal("has no models of its own", "'hugging-face'", "'transformer-lens<4'"):
        load_model(folder, backend="transformer-lens")
    assert isinstance(load_model(folder, offload="disk"), DecoderModel)
