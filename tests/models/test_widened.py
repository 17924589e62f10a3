"""Weights in FP8 and MXFP4 become the numbers they stand for; other ways are refused in a word."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.models import load_model, model_facts
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import load_original
from layerwise.models.weights.quantization import read_quantization
from layerwise.sweep import sweep
from tests.analysis import word_task
from tests.models.off_disk import ASKED, CHANGES
from tests.models.refusal import expect_refusal
from tests.models.test_refusals import edit_config, edit_weights
from tests.models.tiny import TEXT, tiny_folder
from tests.quantized.made import of_fp8, of_mxfp4

MADE: dict[str, tuple[Callable[[Path], tuple[Path, Path]], str]] = {
    "fp8": (of_fp8, "FP8, 8 bits a weight, widened when loaded"),
    "mxfp4": (of_mxfp4, "MXFP4, 4 bits a weight, widened when loaded"),
}


@pytest.mark.parametrize(("method", "dtype"), [("fp8", "bfloat16"), ("mxfp4", "float32")])
def test_weights_are_the_numbers_that_they_stand_for(method, dtype, tmp_path):
    """Bit by bit those of a folder that holds the numbers."""
    make, words = MADE[method]
    model, twin = (load_model(folder, dtype=dtype) for folder in make(tmp_path))
    facts, plain = model_facts(model), model_facts(twin)
    assert (facts.quantization, plain.quantization) == (words, "")
    assert (facts.hash, facts.parity, facts.n_parameters) == (
        plain.hash, plain.parity, plain.n_parameters
    )  # fmt: skip
    assert facts.dtype == dtype
    tokens = model.to_tokens(TEXT)
    assert torch.equal(model(tokens), twin(tokens))


@pytest.mark.long
def test_they_are_off_loaded_and_pruned_like_any_other(tmp_path: Path) -> None:
    folder, twin = of_mxfp4(tmp_path)
    on_disk, whole = load_model(folder, offload="disk"), load_model(twin)
    ours, theirs = (sweep(model, CHANGES, ASKED) for model in (on_disk, whole))
    assert ours.outcomes == theirs.outcomes
    lw.prune_model(whole, [1], tmp_path / "of numbers", word_task(2))
    lw.prune_model(load_model(folder), [1], tmp_path / "cut", word_task(2))
    cut, of_numbers = (model_facts(load_model(tmp_path / name)) for name in ("cut", "of numbers"))
    assert cut.hash == of_numbers.hash
    assert cut.quantization.startswith("MXFP4")


@pytest.mark.long
@pytest.mark.hooked_transformer
def test_both_backends_have_the_numbers(tmp_path: Path) -> None:
    folder, _ = of_fp8(tmp_path)
    models = [load_model(folder, backend=name) for name in ("transformer-lens", "hugging-face")]
    one, other = (model(model.to_tokens(TEXT)).log_softmax(-1) for model in models)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "method", "n_bits", "kept"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4, True),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8, False),
        ({"quant_method": "gptq", "bits": 8}, "gptq", 8, True),
        ({"quant_method": "awq", "bits": 4}, "awq", 4, True),
        ({"quant_method": "fp8"}, "fp8", 8, False),
        ({"quant_method": "mxfp4"}, "mxfp4", 4, False),
    ],
    ids=str,
)
def test_the_method_is_told_from_the_configuration(settings, method, n_bits, kept, tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    edit_config(folder, quantization_config=settings)
    found = read_quantization(folder)
    assert found is not None
    assert (found.method, found.n_bits, found.kept) == (method, n_bits, kept)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ["package bitsandbytes, which"]),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ["pip install bitsandbytes"]),
        ({"quant_method": "gptq", "bits": 4}, ["packages gptqmodel and optimum, which read them"]),
        ({"quant_method": "awq"}, ["quantized by AWQ", "pip install gptqmodel"]),
    ],
    ids=str,
)
def test_a_package_that_is_missing_is_named(settings, parts, tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path, "llama")
    edit_config(folder, quantization_config=settings)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with expect_refusal(*parts):
        load_original(folder, read_config(folder), torch.float32)


def test_packed_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    folder, _ = of_fp8(tmp_path)
    edit_weights(folder, lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))
    with expect_refusal("lack", "model.layers.1.mlp.up_proj.weight"):
        load_model(folder)


def test_a_configuration_that_calls_for_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    folder, _ = of_mxfp4(tmp_path)
    edit_config(folder, vocab_size=200_000)
    with expect_refusal("calls for", "parameters, the files hold"):
        load_model(folder)


@pytest.mark.long
def test_an_exchange_is_made_in_memory_and_not_written(tmp_path: Path) -> None:
    """In the files a scale is beside each weight."""
    folder, twin = of_fp8(tmp_path)
    model, other = load_model(folder), load_model(folder)
    plain = load_model(twin)
    ours = lw.transplant(model, other, word_task(2), layers=[1], progress=False)
    theirs = lw.transplant(plain, load_model(twin), word_task(2), layers=[1], progress=False)
    pd.testing.assert_frame_equal(
        ours.transplant.drop(columns="run", errors="ignore"),
        theirs.transplant.drop(columns="run", errors="ignore"),
    )
    with expect_refusal("cannot be written", "quantized weights"):
        lw.transplant(model, other, word_task(2), layers=[1], write=tmp_path / "out")
