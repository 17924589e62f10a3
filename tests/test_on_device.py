"""The suite's core with its models on a device: on the processor by day, on a GPU by test-cuda."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.models import load_model
from layerwise.sweep import Generate, LogLikelihood, intact, mean, patch, skip, sweep, zero
from layerwise.sweep.plans.memory import LARGEST, SMALLEST, default_memory_budget
from tests import device
from tests.analysis import word_task
from tests.device import DEVICE
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_folder

from .sweep.agreement import assert_agree

REQUESTS = [
    LogLikelihood((1, 2, 3), (4, 5), (1, 9, 3)),
    LogLikelihood((1, 2, 7), (4, 5), (1, 3, 3)),
]
TEXTS = [Generate((1, 2, 3), 5), Generate((1, 2, 7), 5)]
KINDS = ("transformer-lens", "hugging-face", "t5")
CLOSE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def models(folder, tmp_path_factory) -> dict[tuple[str, str], Any]:
    """By kind and device."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LAYERWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        found: dict[tuple[str, str], Any] = {
            (kind, where): load_model(folder, device=where, backend=kind)
            for kind in KINDS[:2]
            for where in ("cpu", DEVICE)
        }
    found["t5", "cpu"] = tiny_seq2seq("t5")
    found["t5", DEVICE] = copy.deepcopy(tiny_seq2seq("t5")).to(DEVICE)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_engine_and_reference_agree_on_the_device(kind, models):
    model = models[kind, DEVICE]
    assert model.W_E.device.type == torch.device(DEVICE).type
    width, last = model.cfg.d_model, model.cfg.n_layers - 1
    changes = [intact(), skip(0), skip(last), zero("attn_out", last), zero("mlp_out", 1),
               mean("resid_post", 1, torch.ones(width))]  # fmt: skip
    patches = [patch("resid_pre", 1, -1), patch("z", 1, -1, 0), patch("attn_out", last, -1)]
    for asked, changed in ((REQUESTS, changes + patches), (TEXTS, changes)):
        fast, slow = (sweep(model, changed, asked, method=m) for m in ("engine", "reference"))
        assert_agree(model, changed, asked, fast, slow)


def float_columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy(float) for name in table.select_dtypes("float")}


@pytest.mark.skipif(DEVICE == "cpu", reason="would hold the processor against itself")
@pytest.mark.parametrize("kind", KINDS[:2])
def test_analyses_find_on_the_device_what_they_find_on_the_processor(kind, models):
    task, budget = word_task(4), {"memory_budget": 2**26, "progress": False}
    for analysis, table in (
        (lambda m: lw.ablate(m, task, **budget), "records"),
        (lambda m: lw.ablate(m, task, "continuation", kind="noise", site="mlp_out", **budget),
         "records"),
        (lambda m: lw.logit_lens(m, task, "continuation", **budget), "lens"),
        (lambda m: lw.similarity(m, task, **budget), "similarity"),
    ):  # fmt: skip
        here, there = (getattr(analysis(models[kind, where]), table) for where in (DEVICE, "cpu"))
        words = here.select_dtypes(exclude="number").columns
        pd.testing.assert_frame_equal(here[words], there[words])
        for name, values in float_columns(here).items():
            expected = float_columns(there)[name]
            np.testing.assert_allclose(values, expected, rtol=CLOSE, atol=CLOSE, err_msg=name)


def test_weights_on_disk_come_to_the_device(folder, models, monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    model = load_model(folder, device=DEVICE, offload="disk")
    changes = [intact(), skip(1)]
    away, there = (sweep(m, changes, REQUESTS) for m in (model, models[KINDS[0], DEVICE]))
    assert_agree(model, changes, REQUESTS, away, there)


def test_the_budget_is_of_the_devices_own_memory():
    assert SMALLEST <= default_memory_budget(DEVICE) <= LARGEST


@pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="takes a GPU's memory away")
def test_a_full_device_is_answered_by_smaller_batches(models):
    model = models[KINDS[0], DEVICE]
    asked = [LogLikelihood((i % 40, *range(1, 12)), (5, 6)) for i in range(400)]
    changes = [intact(), *(skip(layer) for layer in range(model.cfg.n_layers))]
    plain = sweep(model, changes, asked)
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - 2**24), dtype=torch.uint8, device=DEVICE)
    found = sweep(model, changes, asked)
    del taken
    assert_agree(model, changes, asked, found, plain)


def test_the_machine_is_told_what_it_lacks(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    sentence = device.missing_requirement() or ""
    assert "is built without CUDA" in sentence
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds none" in (device.missing_requirement() or "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.missing_requirement() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_ends_with_one_sentence():
    with pytest.raises(SystemExit, match=r"^make test-cuda needs a GPU[^\n]+$"):
        runpy.run_path(device.__file__, run_name="__main__")
