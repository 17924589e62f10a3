"""Weights that stay quantized by bitsandbytes: the same as a model of their numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import layerwise as lw
from layerwise.models import load_model, model_facts
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.decoder.packed import (
    dequantize_modules,
    has_packed,
    is_packed,
    linear_weight,
    weight_bytes,
)
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import load_original
from layerwise.models.meta_model import load_meta_model
from layerwise.sweep import LogLikelihood, Scored, intact, skip, sweep
from tests.analysis import word_task
from tests.cases import few_by_day
from tests.commands import run_cleanly
from tests.models.decoder.test_loading import tiny_family_folder
from tests.models.decoder.tiny import CASES
from tests.models.refusal import expect_refusal
from tests.models.seq2seq import tiny as seq2seq
from tests.models.test_refusals import edit_config
from tests.models.tiny import TEXT, tiny_tokenizer
from tests.test_over_original import ANALYSES, assert_same_tables

from .asked import assert_alike, outcomes
from .made import WEIGHTS, by_bitsandbytes, llama

# Of the library that merges adapters, and of torch about lists of its own.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
bnb = pytest.importorskip("bitsandbytes")
KINDS = ("nf4", "fp4", "nf4 double", "nf4 in bfloat16")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def quantized_folders(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantized")
    return {kind: by_bitsandbytes(plain, root / kind, kind) for kind in (*KINDS, "int8")}


def write_dequantized(folder: Path, out: Path) -> Path:
    """A folder with the numbers, by the library's own function and not by ours."""
    model: Any = load_original(folder, read_config(folder), torch.float32, CPU)
    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            packed: Any = module.weight
            weight = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)
            linear = nn.Linear(*weight.T.shape, bias=module.bias is not None)
            linear.weight = nn.Parameter(weight.float(), requires_grad=False)
            if module.bias is not None:
                linear.bias = module.bias
            model.set_submodule(name, linear)
    fresh = type(model)(read_config(folder))
    fresh.load_state_dict(model.state_dict(), strict=False)
    fresh.save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def kept_and_dequantized(
    quantized_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    """A model whose weights are kept, and one of the numbers, over its own modules, too."""
    folder = quantized_folders["nf4 double"]
    twin = write_dequantized(folder, tmp_path_factory.mktemp("twin"))
    return [load_model(folder), load_model(twin, backend="hugging-face")]


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_numbers_say(kind, quantized_folders, plain, tmp_path):
    model = load_model(quantized_folders[kind])
    twin = load_model(write_dequantized(quantized_folders[kind], tmp_path / "twin"))
    facts = model_facts(model)
    assert isinstance(model, DecoderModel)
    assert has_packed(model.original)
    assert facts.quantization == f"bitsandbytes {kind[:3].upper()}, 4 bits a weight, kept in memory"
    assert (facts.backend, facts.dtype) == ("hugging-face", "float32")
    assert facts.parity is not None
    assert facts.parity < 1e-5
    assert facts.n_parameters == model_facts(load_model(plain)).n_parameters
    assert facts == model_facts(load_model(quantized_folders[kind]))  # not compared again
    tokens = model.to_tokens(TEXT)
    ours, theirs = (one(tokens).log_softmax(-1) for one in (model, twin))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert model_facts(model) == facts, "a forward changed what is in memory"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_all_but_what_is_packed_has_the_number_format_asked_for(dtype, quantized_folders):
    """Whatever the files have it in."""
    model, exact = (
        load_model(quantized_folders["nf4"], dtype=dtype),
        load_model(quantized_folders["nf4"]),
    )
    formats = {weight.dtype for weight in model.parameters()}
    assert formats == {getattr(torch, dtype), torch.uint8}
    assert model_facts(model).dtype == dtype
    tokens = model.to_tokens(TEXT)
    ours, theirs = (one(tokens).float().log_softmax(-1) for one in (model, exact))
    assert 0 < float((ours - theirs).abs().max()) < 1.0


# By day one that skips, one that reads weights themselves, and one that takes gradients.
@pytest.mark.parametrize(
    "name", few_by_day(ANALYSES, "skips", "attribution", "attribution patching")
)
def test_every_analysis_gives_the_tables_of_the_numbers(
    name: str, kept_and_dequantized: list[Any]
) -> None:
    assert_same_tables(name, kept_and_dequantized)


def test_grids_of_a_prompt_are_those_of_the_numbers(kept_and_dequantized: list[Any]) -> None:
    prompt, other, words = [5, 17, 40, 9, 33], [5, 17, 41, 9, 33], (74, 77)
    calls = [
        lambda one: lw.lens_grid(one, prompt, token=words[0]),
        lambda one: lw.skip_grid(one, prompt, new_tokens=2),
        lambda one: lw.skip_grid(one, prompt, site="z", layers=[1]),
        lambda one: lw.patch_grid(one, prompt, other, *words),
        lambda one: lw.attention_grid(one, prompt, layer=1),
        lambda one: lw.attribute(one, prompt, *words),
    ]
    for call in calls:
        ours, theirs = (call(one).table for one in kept_and_dequantized)
        assert ours["value"].tolist() == pytest.approx(theirs["value"].tolist(), abs=1e-3)
        assert ours["text"].tolist() == theirs["text"].tolist()


# By day linear modules, experts, what has no linear modules, and a class of modules of its own.
@pytest.mark.parametrize(
    "case",
    few_by_day(CASES, "llama", "gemma 2", "qwen 3 moe", "gpt-oss", "gpt-2, by layer", "falcon"),
)
def test_families_equal_their_reference_and_the_numbers(case: str, tmp_path: Path) -> None:
    folder = tiny_family_folder(case, tmp_path)
    packed = by_bitsandbytes(folder, tmp_path / "packed", "nf4")
    kept = load_model(packed)
    assert isinstance(kept, DecoderModel)
    # transformers passes over Falcon's linear modules, which are of a class of its own
    assert has_packed(kept.original) == ("falcon" not in case)
    original = dequantize_modules(load_original(packed, read_config(packed), torch.float32))
    numbers = hooked_decoder(original, kept.tokenizer, "numbers")
    assert_alike(outcomes(kept), outcomes(kept, method="reference"))
    assert_alike(outcomes(kept), outcomes(numbers))


@pytest.mark.parametrize("case", ["llama, biases", "gpt-2", "bloom"])
def test_the_matrix_of_a_module_is_that_of_the_library(case: str, tmp_path: Path) -> None:
    folder = by_bitsandbytes(tiny_family_folder(case, tmp_path), tmp_path / "packed", "nf4")
    model = load_original(folder, read_config(folder), torch.float32, CPU)
    seen = 0
    for module in model.modules():
        if is_packed(module):
            packed: Any = module.weight
            expected = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).T
            assert torch.equal(linear_weight(module), expected.float())
            seen += 1
    assert seen >= 16


def test_another_scale_is_another_hash(quantized_folders: dict[str, Path]) -> None:
    model = load_model(quantized_folders["nf4"])
    before = model_facts(model)
    linear: Any = model.original.model.layers[1].mlp.up_proj  # type: ignore[union-attr]
    linear.weight.quant_state.absmax[3] *= 1.5
    after = model_facts(model)
    assert after.hash != before.hash
    assert (after.parity, after.verified) == (
        None,
        "not verified: weights or settings were changed after loading",
    )


@pytest.mark.hooked_transformer
def test_who_asks_for_transformer_lens_gets_numbers(quantized_folders, kept_and_dequantized):
    folder = quantized_folders["nf4 double"]
    model = load_model(folder, backend="transformer-lens", offload="disk")
    facts = model_facts(model)
    assert (facts.backend, facts.dtype) == ("transformer-lens", "float32")
    assert facts.quantization == "bitsandbytes NF4, 4 bits a weight, widened when loaded"
    tokens = model.to_tokens(TEXT)
    ours, theirs = (one(tokens).log_softmax(-1) for one in (model, kept_and_dequantized[0]))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_what_changes_weights_is_refused(
    quantized_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, other = load_model(quantized_folders["nf4"]), load_model(quantized_folders["nf4"])
    with expect_refusal("stay quantized", "cannot be exchanged", "expected numbers"):
        lw.transplant(model, other, word_task(2))
    with expect_refusal(
        "stay quantized (bitsandbytes NF4, 4 bits a weight)", "only numbers are off-loaded"
    ):
        load_model(quantized_folders["nf4"], offload="disk")


def test_layers_are_cut_out_of_the_files_as_they_are(quantized_folders, tmp_path):
    model = load_model(quantized_folders["nf4 double"])
    result = lw.prune_model(model, [1], tmp_path / "cut", word_task(2))
    assert set(result.summary_rows()["way of scoring"])
    cut = load_model(tmp_path / "cut")
    assert cut.cfg.n_layers == 2
    assert model_facts(cut).quantization == model_facts(model).quantization
    asked = [LogLikelihood((5, 9, 20, 31), (7, 8))]
    ((ours,),) = sweep(model, [skip(1)], asked).outcomes
    ((theirs,),) = sweep(cut, [intact()], asked).outcomes
    assert isinstance(ours, Scored)
    assert isinstance(theirs, Scored)
    assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)


def test_eight_bits_are_the_numbers_whatever_else_is_in_a_batch(quantized_folders, plain):
    """The library itself would multiply by what is in the batch."""
    model, stored = (
        load_model(quantized_folders["int8"]),
        load_file(quantized_folders["int8"] / WEIGHTS),
    )
    assert model_facts(model).quantization == "bitsandbytes, 8 bits a weight, widened when loaded"
    read = load_original(
        quantized_folders["int8"], read_config(quantized_folders["int8"]), torch.float32
    )
    weights = dict(read.named_parameters())
    names = [name.removesuffix("SCB") for name in stored if name.endswith("SCB")]
    assert len(names) == 21
    for name in names:
        expected = stored[f"{name}weight"].float() * stored[f"{name}SCB"][:, None] / 127
        torch.testing.assert_close(weights[f"{name}weight"], expected, atol=1e-7, rtol=1e-6)
    tokens = model.to_tokens(TEXT)
    with torch.inference_mode():
        ours, near = (one(tokens).log_softmax(-1) for one in (model, load_model(plain)))
    assert float((ours - near).abs().max()) < 0.5


def test_an_encoder_decoder_becomes_numbers(tmp_path: Path) -> None:
    folder = seq2seq.tiny_folder("t5")
    packed = by_bitsandbytes(folder, tmp_path / "packed", "nf4")
    model = load_model(packed)
    assert model_facts(model).quantization.endswith("widened when loaded")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_an_adapter_is_merged_into_the_numbers(
    quantized_folders: dict[str, Path], tmp_path: Path
) -> None:
    """As adapters are that were trained beside quantized weights."""
    peft = pytest.importorskip("peft")
    from tests.models.test_adapters import edit, logprobs_of_original, write_adapter

    twin = write_dequantized(quantized_folders["nf4"], tmp_path / "twin")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    beside = write_adapter(twin, tmp_path / "adapter", settings)
    edit(tmp_path / "adapter", base_model_name_or_path=str(quantized_folders["nf4"]))
    model = load_model(tmp_path / "adapter")
    assert "LORA" in model_facts(model).adapter
    assert model_facts(model).quantization == ""
    tokens = model.to_tokens(TEXT)
    torch.testing.assert_close(
        model(tokens).log_softmax(-1), logprobs_of_original(beside, tokens), atol=1e-4, rtol=0
    )


def test_a_plan_counts_packed_weights(quantized_folders: dict[str, Path], plain: Path) -> None:
    """Scales are not counted; of larger models they are a tenth of what is packed."""
    outline, model = load_meta_model(quantized_folders["nf4"]), load_model(quantized_folders["nf4"])
    assert weight_bytes(outline) == weight_bytes(model)
    assert weight_bytes(outline) < weight_bytes(load_meta_model(plain)) / 2


def test_a_scale_that_is_no_number_is_refused(
    quantized_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(quantized_folders["nf4"], folder)
    held = load_file(folder / WEIGHTS)
    held["model.layers.1.mlp.up_proj.weight.absmax"][2] = torch.nan
    save_file(held, folder / WEIGHTS, {"format": "pt"})
    with expect_refusal("NaN or infinite weights", "layers.1.mlp.up_proj.weight.absmax"):
        load_model(folder)


def test_a_quantized_unembedding_is_refused(plain: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["none"])
    model: Any = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings)
    model.save_pretrained(tmp_path / "all")
    tiny_tokenizer().save_pretrained(tmp_path / "all")
    with expect_refusal("unembedding whose weights are quantized"):
        load_model(tmp_path / "all")


def test_the_command_line_says_how_weights_are_quantized(quantized_folders):
    """And nothing that the library says of itself."""
    told = run_cleanly("models", quantized_folders["nf4"])
    assert "quantization: bitsandbytes NF4, 4 bits a weight, kept in memory" in told


def test_a_file_that_is_no_longer_what_it_says_is_refused(quantized_folders, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(quantized_folders["nf4"], folder)
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with expect_refusal("weights in", "other"):
        load_model(folder)
