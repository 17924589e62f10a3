"""GGUF files of families that run over their own modules, and settings that were not read."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from layerwise.models import load_model, model_facts
from layerwise.models.files import gguf_check
from layerwise.models.files.gguf_files import folder_of_gguf
from tests.models.refusal import refused
from tests.models.test_gguf import write_gguf
from tests.models.tiny import scramble

TOKENS = [
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *(f"▁{letter}" for letter in string.ascii_lowercase),
    *("▁", "e", "t", "a", "o", "n", "i"),
]
SIZES: dict[str, Any] = {
    "vocab_size": len(TOKENS), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "sliding_window": 5,
    "rms_norm_eps": 1e-5, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
}  # fmt: skip
FAMILIES = {
    "gemma2": ("Gemma2Config", {"num_hidden_layers": 2, "head_dim": 256}),
    "gemma3": ("Gemma3TextConfig", {"num_hidden_layers": 7, "head_dim": 256}),
}
KINDS = {"gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3": gguf.MODEL_ARCH.GEMMA3}


def original_of(family: str) -> Any:
    name, fields = FAMILIES[family]
    config = getattr(transformers, name)(**SIZES | fields)
    # The others of transformers' earlier releases leave out soft-caps.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    scramble(model, 0)
    for weight_name, weight in model.named_parameters():
        if "norm" in weight_name:  # which is added to 1
            weight.data = weight.data - 1
    return model.eval()


def write(path: Path, family: str, model: Any, **said: Any) -> Path:
    """Write a model as llama.cpp's own script does: norms with 1 added, tied embeddings once."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    base = 1e4 if family == "gemma2" else 1e6
    settings = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": base,
        "vocab_size": config.vocab_size,
        **said,
    }
    put = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in settings.items():
        if value is not None:
            put[type(value)](f"{family}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(index) for index in range(len(TOKENS))])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    table = gguf.get_tensor_name_map(KINDS[family], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            stored = table.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(stored, weight.numpy().astype(np.float32) + ("norm" in name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_gemma_says_what_its_original_says(tmp_path, family):
    original = original_of(family)
    model = load_model(write(tmp_path / "tiny.gguf", family, original))
    facts = model_facts(model)
    assert (facts.source, facts.backend) == ("gguf", "hugging-face")
    tokens = torch.randint(2, 290, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said, wanted = model(tokens), original(tokens).logits
    assert (said.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "said", "parts"),
    [
        ("gemma2", {"attn_logit_softcapping": 20.0}, ["20.0 of the soft-cap of attention", "50"]),
        ("gemma2", {"final_logit_softcapping": 0.0}, ["0.0 of the soft-cap of logits", "30"]),
        ("gemma2", {"attention.sliding_window": None}, ["None of the window", "4096"]),
        ("gemma2", {"attention.sliding_window_pattern": 3}, ["which layers have windows"]),
        ("gemma2", {"attention.key_length": 128}, ["128 of the width that attention is scaled by"]),
        ("gemma3", {"rope.freq_base": None}, ["10000.0 of the rotary base", "1000000"]),
        ("gemma3", {"rope.freq_base_swa": 2e4}, ["20000.0 of the rotary base of windows"]),
        (
            "gemma3",
            {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
            ["'linear' of rotary"],
        ),
        ("gemma3", {"rope.scaling.factor": 8.0}, ["'linear' of rotary scaling", "'none'"]),
    ],
)
def test_what_transformers_does_not_read_is_refused(tmp_path, family, said, parts, cache):
    path = write(tmp_path / "odd.gguf", family, original_of(family), **said)
    with refused("odd.gguf cannot be converted", "transformers reads", *parts):
        load_model(path)
    assert list((cache / "gguf").iterdir()) == []


def test_a_window_pattern_that_is_the_usual_one_is_accepted(tmp_path):
    said = {"attention.sliding_window_pattern": 6, "rope.freq_base_swa": 1e4}
    folder_of_gguf(write(tmp_path / "tiny.gguf", "gemma3", original_of("gemma3"), **said))


@pytest.mark.parametrize("kind", ["yarn", "linear", "longrope"])
def test_rotary_scaling_that_is_not_read_is_refused_in_any_family(tmp_path, kind):
    said = {"rope.scaling.type": kind, "rope.scaling.factor": 4.0}
    with refused(f"'{kind}' of rotary scaling", "'none'"):
        load_model(write_gguf(tmp_path / "scaled.gguf", said=said))


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("kind", ["none", None])
def test_a_header_that_says_there_is_no_rotary_scaling_is_accepted(tmp_path, kind):
    said = {"rope.scaling.factor": 1.0} | ({"rope.scaling.type": kind} if kind else {})
    said |= {"rope.freq_base": 5e5}
    model = load_model(write_gguf(tmp_path / "plain.gguf", said=said))
    assert model.cfg.rotary_base == 5e5


def test_norms_are_compared_as_they_are_stored(tmp_path, monkeypatch):
    path = write(tmp_path / "tiny.gguf", "gemma2", original_of("gemma2"))
    monkeypatch.setattr(gguf_check, "_NORMS_FROM_ONE", ())
    with refused("was not converted rightly", "norm"):
        load_model(path)
