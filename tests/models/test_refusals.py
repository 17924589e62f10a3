"""Bad names, folders, weights, number formats and devices: one sentence each."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerwise.models import load_model
from layerwise.models.huggingface.meta_model import load_meta_model
from tests.models.refusal import refused
from tests.models.tiny import tiny_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path, "llama")


def edit_config(folder, **fields):
    path = folder / "config.json"
    kept = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c", "~/none", "x.gguf"])
def test_no_such_path(name):
    with refused("There is no file or folder", repr(name)):
        load_model(name)


def test_unknown_name_suggests_the_closest():
    with refused("Unknown model 'smollm-135m'", "Did you mean 'smollm2-135m'?", "owner/name"):
        load_model("smollm-135m")


def test_a_folder_that_is_no_model(tmp_path):
    with refused("is no model folder", "config.json"):
        load_model(tmp_path)


def test_config_that_transformers_refuses(folder):
    edit_config(folder, hidden_size="wide")
    with refused("config.json cannot be used", "correct it"):
        load_model(folder)


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with refused("has no weights", "model.safetensors"):
        load_model(folder)


def test_pickled_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with refused("has only pickled weights", "can run code", "safetensors"):
        load_model(folder)


def test_missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with refused("lacks 1 of 2 weight files", "model-00002-of-00002.safetensors"):
        load_model(folder)
    index.write_text("{}")
    with refused("model.safetensors.index.json cannot be read", "weight_map"):
        load_model(folder)


def test_a_missing_tensor_is_not_filled_with_random_numbers(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights.pop(name))
    with refused("lack 1 tensor, ", name):
        load_model(folder)


def test_a_tensor_without_a_place_is_not_dropped(folder):
    edit_config(folder, num_hidden_layers=2)
    with refused("have, against config.json", "model.layers.2."):
        load_model(folder)


def test_tensors_of_another_shape(folder):
    edit_config(folder, intermediate_size=88)
    with refused("cannot be loaded", "fit config.json"):
        load_model(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(folder, number):
    name = "model.layers.2.self_attn.o_proj.weight"

    def spoil(weights):
        weights[name][3, 4] = number

    edit_weights(folder, spoil)
    with refused("NaN or infinite", name):
        load_model(folder)


@pytest.mark.hooked_transformer
def test_weights_too_large_for_float16(folder):
    def enlarge(weights):
        weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6

    edit_weights(folder, enlarge)
    load_model(folder)
    with refused("NaN or infinite", "blocks.0.mlp.W_in", "float16 was too narrow"):
        load_model(folder, dtype="float16")


def test_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with refused("has no tokenizer", "tokenizer.json"):
        load_model(folder)


def test_tokenizer_that_needs_code(folder):
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps(own))
    (folder / "own.py").write_text("raise SystemExit('code of the model was run')")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with refused("The tokenizer in", "cannot be loaded", "without running code"):
        load_model(folder)


def test_model_and_tokenizer_that_do_not_match(tmp_path):
    folder = tiny_folder(tmp_path, "llama", vocab_size=290)
    with refused("do not match", "token id 299", "vocabulary size 290"):
        load_model(folder)


def test_model_that_needs_code_of_its_own(folder):
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    (folder / "own.py").write_text("raise SystemExit('code of the model was run')")
    with refused("code of its own", "auto_map", "never runs"):
        load_model(folder)


def test_code_of_a_model_that_has_a_native_class_is_not_run(folder):
    edit_config(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (folder / "own.py").write_text("raise SystemExit('code of the model was run')")
    assert load_model(folder).cfg.original_architecture == "LlamaForCausalLM"


@pytest.mark.hooked_transformer
@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"model_type": "frobnicate"}, ["unknown architecture", "LlamaForCausalLM"]),
        ({"architectures": None}, ["unknown architecture", "llama"]),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["no causal language model"]),
        (
            {"model_type": "led", "architectures": ["LEDForConditionalGeneration"]},
            ["encoder-decoder", "not supported (LED", "T5ForConditionalGeneration"],
        ),
        (
            {"model_type": "bart", "architectures": ["BartForSequenceClassification"]},
            ["encoder-decoder", "BartForConditionalGeneration"],
        ),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, ["no causal language"]),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 3}},
            ["quantized by gptq in a way", "GPTQ (2, 4, 8 bits)", "unquantized"],
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            ["quantized by bitsandbytes in a way"],
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": [4]}},
            ["quantized by awq in a way"],
        ),
        ({"quantization_config": {"quant_method": "hqq"}}, ["quantized by hqq in a way"]),
        ({"quantization_config": [4]}, ["are quantized in a way", "GGUF"]),
        (
            {
                "model_type": "gemma3",
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {"vocab_size": 304},
                "vision_config": {"hidden_size": 8},
            },
            [
                "for more than text (Gemma3ForConditionalGeneration, with vision_config)",
                "text model",
            ],
        ),
        (
            {
                "model_type": "llava",
                "architectures": ["LlavaForConditionalGeneration"],
                "text_config": {"vocab_size": 304},
            },
            ["for more than text (LlavaForConditionalGeneration, with text_config)"],
        ),
        (
            {
                "model_type": "falcon",
                "architectures": ["FalconForCausalLM"],
                "hidden_size": 48,
                "num_attention_heads": 4,
                "head_dim": None,
                "alibi": True,
            },
            ["cannot convert this FalconForCausalLM", "Its own modules cannot be run"],
        ),
        (
            {"model_type": "mamba", "architectures": ["MambaForCausalLM"]},
            ["cannot convert this MambaForCausalLM", "MambaModel has no token embedding"],
        ),
        (
            {"model_type": "ctrl", "architectures": ["CTRLLMHeadModel"]},
            ["cannot convert this CTRLLMHeadModel", "Its own modules cannot be run, since"],
        ),
    ],
)
def test_models_of_other_kinds(folder, fields, parts):
    edit_config(folder, **fields)
    with refused(*parts):
        load_model(folder)
    with refused(*parts):
        load_meta_model(folder)


def test_unknown_dtype():
    with refused("Unknown dtype 'float8'", "bfloat16, float16, float32"):
        load_model(dtype="float8")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", "cpu:1:2", ""])
def test_unknown_device(device):
    with refused(f"Unknown device {device!r}", "cpu, cuda, mps"):
        load_model(device=device)


@pytest.mark.parametrize(
    ("device", "count", "part"),
    [("cuda", 0, "expected 'cpu';"), ("cuda:2", 2, "'cpu' or one of cuda:0, cuda:1;")],
)
def test_device_that_is_not_here(monkeypatch, device, count, part):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with refused(f"Device {device!r} is not available here", part):
        load_model(device=device)


def test_mps_that_is_not_here(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with refused("Device 'mps' is not available here"):
        load_model(device="mps")
