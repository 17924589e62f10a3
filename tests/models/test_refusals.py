"""Bad names, folders, weights, number formats and devices: one sentence each."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerwise.models import load_model
from layerwise.models.meta_model import load_meta_model
from tests.models.refusal import expect_refusal
from tests.models.tiny import tiny_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path, "llama")


WEIGHTS = "model.safetensors"
TEXT_OF_MORE = {"text_config": {"vocab_size": 304}}
FALCON = {"hidden_size": 48, "num_attention_heads": 4, "head_dim": None, "alibi": True}


def edit_config(folder, **fields):
    path = folder / "config.json"
    kept = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["./nothing", "a/b/c", "~/none", "x.gguf"])
def test_no_such_path(name):
    with expect_refusal("There is no file or folder", repr(name)):
        load_model(name)


def test_unknown_name_suggests_the_closest():
    with expect_refusal(
        "Unknown model 'smollm-135m'", "Did you mean 'smollm2-135m'?", "owner/name"
    ):
        load_model("smollm-135m")


def test_missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with expect_refusal("lacks 1 of 2 weight files", "model-00002-of-00002.safetensors"):
        load_model(folder)
    index.write_text("{}")
    with expect_refusal("model.safetensors.index.json cannot be read", "weight_map"):
        load_model(folder)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers(folder, number):
    edit_weights(folder, lambda weights: weights[UP][3].fill_(number))
    with expect_refusal("NaN or infinite", UP):
        load_model(folder)


@pytest.mark.hooked_transformer
def test_weights_too_large_for_float16(folder):
    edit_weights(folder, lambda weights: weights[UP][0, :1].fill_(1e6))
    load_model(folder)
    with expect_refusal("NaN or infinite", "blocks.1.mlp.W_in", "float16 was too narrow"):
        load_model(folder, dtype="float16")


def test_model_and_tokenizer_that_do_not_match(tmp_path):
    folder = tiny_folder(tmp_path, "llama", vocab_size=290)
    with expect_refusal("do not match", "token id 299", "vocabulary size 290"):
        load_model(folder)


def test_code_of_a_model_that_has_a_native_class_is_not_run(folder):
    edit_config(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (folder / "own.py").write_text(CODE)
    assert load_model(folder).cfg.original_architecture == "LlamaForCausalLM"


@pytest.mark.hooked_transformer
@pytest.mark.parametrize(
    ("model_type", "architecture", "fields", "parts"),
    [
        ("frobnicate", "LlamaForCausalLM", {}, ["unknown architecture", "LlamaForCausalLM"]),
        ("llama", None, {}, ["unknown architecture", "llama"]),
        ("llama", "LlamaForSequenceClassification", {}, ["no causal language model"]),
        ("led", "LEDForConditionalGeneration", {},
         ["encoder-decoder", "not supported (LED", "T5ForConditionalGeneration"]),
        ("bart", "BartForSequenceClassification", {}, ["BartForConditionalGeneration"]),
        ("bert", "BertForMaskedLM", {}, ["no causal language"]),
        ("gemma3", "Gemma3ForConditionalGeneration",
         {**TEXT_OF_MORE, "vision_config": {"hidden_size": 8}},
         ["for more than text (Gemma3ForConditionalGeneration, with vision_config)", "text model"]),
        ("llava", "LlavaForConditionalGeneration", TEXT_OF_MORE,
         ["for more than text (LlavaForConditionalGeneration, with text_config)"]),
        ("falcon", "FalconForCausalLM", FALCON,
         ["cannot convert this FalconForCausalLM", "Its own modules cannot be run"]),
        ("mamba", "MambaForCausalLM", {},
         ["cannot convert this MambaForCausalLM", "MambaModel has no token embedding"]),
        ("ctrl", "CTRLLMHeadModel", {},
         ["cannot convert this CTRLLMHeadModel", "Its own modules cannot be run, since"]),
    ],
)  # fmt: skip
def test_models_of_other_kinds(folder, model_type, architecture, fields, parts):
    architectures = architecture and [architecture]
    edit_config(folder, model_type=model_type, architectures=architectures, **fields)
    for load in (load_model, load_meta_model):
        with expect_refusal(*parts):
            load(folder)


def test_unknown_dtype():
    with expect_refusal("Unknown dtype 'float8'", "bfloat16, float16, float32"):
        load_model(dtype="float8")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", ""])
def test_unknown_device(device):
    with expect_refusal(f"Unknown device {device!r}", "cpu, cuda, mps"):
        load_model(device=device)


@pytest.mark.parametrize(
    ("device", "count", "part"),
    [("cuda", 0, "expected 'cpu';"), ("cuda:2", 2, "'cpu' or one of cuda:0, cuda:1;")],
)
def test_device_that_is_not_here(monkeypatch, device, count, part):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with expect_refusal(f"Device {device!r} is not available here", part):
        load_model(device=device)


UP = "model.layers.1.mlp.up_proj.weight"


CODE = "raise SystemExit('code of the model was run')"


def needs_code(folder):
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (folder / "own.py").write_text(CODE)


def tokenizer_needs_code(folder):
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "own.py").write_text(CODE)
    (folder / "tokenizer.json").rename(folder / "vocab.json")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda f: (f / "config.json").unlink(), ["is no model folder", "config.json"]),
        (lambda f: edit_config(f, hidden_size="wide"), ["config.json cannot be used", "correct"]),
        (lambda f: (f / WEIGHTS).unlink(), ["has no weights", WEIGHTS]),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
         ["has only pickled weights", "can run code", "safetensors"]),
        (lambda f: edit_weights(f, lambda held: held.pop(UP)), ["lack 1 tensor, ", UP]),
        (lambda f: edit_config(f, num_hidden_layers=2), ["have, against config.json", "layers.2."]),
        (lambda f: edit_config(f, intermediate_size=88), ["cannot be loaded", "fit config.json"]),
        (lambda f: (f / "tokenizer.json").unlink(), ["has no tokenizer", "tokenizer.json"]),
        (tokenizer_needs_code, ["The tokenizer in", "cannot be loaded", "without running code"]),
        (needs_code, ["code of its own", "auto_map", "never runs"]),
    ],
)  # fmt: skip
def test_folders_that_are_no_whole_model_are_refused(folder, change, parts):
    change(folder)
    with expect_refusal(*parts):
        load_model(folder)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"quant_method": "gptq", "bits": 3}, ["by gptq in a way", "GPTQ (2, 4, 8 bits)"]),
        ({"quant_method": "bitsandbytes"}, ["quantized by bitsandbytes in a way"]),
        ({"quant_method": "awq", "bits": [4]}, ["quantized by awq in a way"]),
        ({"quant_method": "hqq"}, ["quantized by hqq in a way"]),
        ([4], ["are quantized in a way", "GGUF"]),
    ],
)
def test_other_ways_to_quantize_are_refused(folder, settings, parts):
    edit_config(folder, quantization_config=settings)
    for load in (load_model, load_meta_model):
        with expect_refusal(*parts):
            load(folder)
