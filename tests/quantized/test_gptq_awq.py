"""Weights that stay quantized by GPTQ and AWQ: the same as a model of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.models import load_model, model_facts
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.packed import has_packed, is_packed, linear_weight, weight_bytes
from layerwise.models.meta_model import load_meta_model
from tests.analysis import word_task
from tests.commands import run_cleanly
from tests.models.refusal import expect_refusal
from tests.models.tiny import TEXT
from tests.test_over_original import ANALYSES, assert_same_tables

from .asked import assert_alike, outcomes
from .made import AWQ, GPTQ, awq, gptq, llama, packed_folder

pytest.importorskip("gptqmodel")
pytest.importorskip("optimum")
# Of the library when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
MADE = {"gptq": (GPTQ, gptq()), "awq": (AWQ, awq)}
# AWQ's modules compute in 16 bits whatever they are given.
EXACT = {"gptq": "float32", "awq": "float16"}
LIMIT = {"gptq": 1e-4, "awq": 0.1}


@pytest.fixture(scope="module", params=MADE)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(method: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp(method)
    return packed_folder(llama(root), root / "made", *MADE[method])


@pytest.fixture(scope="module")
def load_both(method: str, folders: tuple[Path, Path]) -> list[Any]:
    dtype = EXACT[method]
    return [
        load_model(folders[0], dtype=dtype),
        load_model(folders[1], dtype=dtype, backend="hugging-face"),
    ]


def test_it_says_what_the_numbers_say(method, folders, load_both):
    model, twin = load_both
    facts = model_facts(model)
    assert isinstance(model, DecoderModel)
    assert has_packed(model.original)
    assert facts.quantization == f"{method.upper()}, 4 bits a weight, kept in memory"
    assert (facts.backend, facts.dtype) == ("hugging-face", EXACT[method])
    assert facts.n_parameters == model_facts(twin).n_parameters
    assert facts == model_facts(load_model(folders[0], dtype=EXACT[method]))
    tokens = model.to_tokens(TEXT)
    ours, theirs = (one(tokens).float().log_softmax(-1) for one in load_both)
    torch.testing.assert_close(ours, theirs, atol=LIMIT[method], rtol=0)
    assert model_facts(model) == facts, "a forward changed what is in memory"


@pytest.mark.parametrize(("bits", "mixed"), [(2, False), (8, False), (4, True)])
def test_other_ways_of_gptq_say_what_the_numbers_say(bits, mixed, tmp_path):
    settings = {**GPTQ, "bits": bits, "desc_act": mixed}
    folders = packed_folder(llama(tmp_path), tmp_path / "made", settings, gptq(bits, mixed=mixed))
    model, twin = (load_model(folder, backend="hugging-face") for folder in folders)
    assert model_facts(model).quantization == f"GPTQ, {bits} bits a weight, kept in memory"
    tokens = model.to_tokens(TEXT)
    ours, theirs = (one(tokens).log_softmax(-1) for one in (model, twin))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_matrix_of_a_module_is_that_of_the_twin(load_both: list[Any]) -> None:
    weights = {name: one.float() for name, one in load_both[1].original.named_parameters()}
    packed = [(name, one) for name, one in load_both[0].original.named_modules() if is_packed(one)]
    assert len(packed) == 21
    for name, module in packed:
        assert torch.equal(linear_weight(module), weights[f"{name}.weight"].T)


def test_the_engine_equals_its_reference_and_the_numbers(method: str, load_both: list[Any]) -> None:
    model, twin = load_both
    assert_alike(outcomes(model), outcomes(model, method="reference"), LIMIT[method])
    if method == "gptq":
        assert_alike(outcomes(model), outcomes(twin))


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_gives_the_tables_of_the_numbers(name, method, load_both):
    if method == "gptq":
        assert_same_tables(name, load_both)
    else:  # in 16 bits the best tokens of a random model change places
        table, run = ANALYSES[name]
        assert len(getattr(run(load_both[0], progress=False), table))


@pytest.mark.hooked_transformer
def test_who_asks_for_transformer_lens_gets_numbers(folders: tuple[Path, Path]) -> None:
    model, twin = (load_model(one, backend="transformer-lens") for one in folders)
    assert model_facts(model).hash == model_facts(twin).hash
    assert model_facts(model).quantization.endswith("widened when loaded")


def test_a_plan_counts_packed_weights(method: str, folders: tuple[Path, Path]) -> None:
    """A scale and a zero beside 32 weights, as here, are not foretold."""
    outline = weight_bytes(load_meta_model(folders[0], dtype=EXACT[method]))
    loaded = weight_bytes(load_model(folders[0], dtype=EXACT[method]))
    assert outline < loaded < 1.5 * outline


def test_the_command_line_says_nothing_that_the_library_says(method, folders):
    told = run_cleanly("models", folders[0], "--dtype", EXACT[method])
    assert f"quantization: {method.upper()}, 4 bits a weight, kept in memory" in told
    assert "INFO" not in told


def test_awq_in_float32_and_exchanges_are_refused(method, folders, load_both):
    if method == "awq":
        with expect_refusal("AWQ, whose modules compute in 16 bits", "dtype float16 or bfloat16"):
            load_model(folders[0])
    with expect_refusal("stay quantized", "cannot be exchanged"):
        lw.transplant(load_both[0], load_model(folders[0], dtype=EXACT[method]), word_task(2))
    with expect_refusal("only numbers are off-loaded"):
        load_model(folders[0], dtype=EXACT[method], offload="disk")


def test_layers_are_cut_out_of_the_files_as_they_are(method, load_both, tmp_path):
    lw.prune_model(load_both[0], [1], tmp_path / "cut", word_task(2))
    cut = load_model(tmp_path / "cut", dtype=EXACT[method])
    assert (cut.cfg.n_layers, model_facts(cut).quantization[:3].lower()) == (2, method[:3])
