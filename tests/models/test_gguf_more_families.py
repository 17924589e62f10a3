"""GGUF files of StarCoder2, StableLM and mixtures of experts, and experts that are not read."""

from __future__ import annotations

import json
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
from tests.models.refusal import refused
from tests.models.tiny import scramble, tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 304, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 5e5}
HALF = {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "starcoder2": ("starcoder2", "Starcoder2Config", {}, {}),
    "starcoder2, tied": ("starcoder2", "Starcoder2Config", {"tie_word_embeddings": True}, {}),
    "stablelm": ("stablelm", "StableLmConfig", HALF, {"rope.dimension_count": 4}),
    "stablelm, parallel": (
        "stablelm", "StableLmConfig",
        {**HALF, "use_parallel_residual": True, "use_qkv_bias": True}, {"rope.dimension_count": 4},
    ),
    "qwen2moe": (
        "qwen2moe", "Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 40},
        {"expert_count": 4, "expert_used_count": 2},
    ),
    "qwen3moe": (
        "qwen3moe", "Qwen3MoeConfig", {**EXPERTS, "head_dim": 16, "norm_topk_prob": True},
        {"expert_count": 4, "expert_used_count": 2, "attention.key_length": 16},
    ),
}  # fmt: skip
"""By name: what a file calls the architecture, its configuration, and what else its header says."""
KINDS = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}


def original_of(family: str) -> Any:
    _, name, fields, _ = FAMILIES[family]
    config = getattr(transformers, name)(**{**SIZES, "rope_parameters": ROPE, **fields})
    model = AutoModelForCausalLM.from_config(config)
    scramble(model, 0)
    return model.eval()


def stored(model: Any, architecture: str) -> dict[str, np.ndarray]:
    """A model's tensors as llama.cpp's own script names and cuts them."""
    table = gguf.get_tensor_name_map(KINDS[architecture], model.config.num_hidden_layers)
    found = {}
    for name, weight in model.state_dict().items():
        block, _, of_block = name.partition(".mlp.experts.")
        if of_block == "gate_up_proj":
            place = f"blk.{block.rpartition('.')[2]}"
            gates, ups = weight.chunk(2, dim=1)
            found |= {f"{place}.ffn_gate_exps.weight": gates, f"{place}.ffn_up_exps.weight": ups}
        elif of_block == "down_proj":
            found[f"blk.{block.rpartition('.')[2]}.ffn_down_exps.weight"] = weight
        elif name != "lm_head.weight" or not model.config.tie_word_embeddings:
            key = table.get_name(name, try_suffixes=(".weight", ".bias"))
            found[key] = weight[0] if name.endswith("shared_expert_gate.weight") else weight
    return {key: weight.numpy().astype(np.float32) for key, weight in found.items()}


def write(path: Path, architecture: str, tensors: dict[str, np.ndarray], said: Any) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    settings = {
        "context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.freq_base": 5e5,
        "attention.layer_norm_rms_epsilon": 1e-6, "attention.layer_norm_epsilon": 1e-5,
        "vocab_size": 304, **said,
    }  # fmt: skip
    for key, value in settings.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{architecture}.{key}", value)
    tokenizer = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    tokens.append("<|endoftext|>")  # which transformers would add, among others
    if architecture == "starcoder2":  # whose vocabulary is counted by its tokens
        tokens += [f"<unused {n}>" for n in range(304 - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    for name, weight in tensors.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def file_of(family: str, folder: Path, model: Any, **more: Any) -> Path:
    architecture, _, _, said = FAMILIES[family]
    return write(folder / "tiny.gguf", architecture, stored(model, architecture), {**said, **more})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_says_what_its_original_says(tmp_path, family):
    original = original_of(family)
    model = load_model(file_of(family, tmp_path, original), backend="hugging-face")
    assert model_facts(model).source == "gguf"
    tokens = torch.randint(2, 290, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said, wanted = model(tokens), original(tokens).logits
    assert (said.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() < 1e-4


def test_experts_are_compared_with_their_file(tmp_path, monkeypatch):
    path = file_of("qwen3moe", tmp_path, original_of("qwen3moe"))
    monkeypatch.setattr(gguf_check, "_HALVES", ("ffn_up_exps.weight", "ffn_gate_exps.weight"))
    with refused("was not converted rightly", "gate_up_proj"):
        load_model(path)


def test_experts_that_are_missing_are_told(tmp_path):
    tensors = stored(original_of("qwen3moe"), "qwen3moe")
    del tensors["blk.1.ffn_up_exps.weight"]
    path = write(tmp_path / "tiny.gguf", "qwen3moe", tensors, FAMILIES["qwen3moe"][3])
    with refused("lacks 1 tensor, blk.1.ffn_up_exps.weight"):
        load_model(path)


def test_experts_of_mixtral_are_refused(tmp_path):
    tensors = {"token_embd.weight": np.zeros((304, 32), np.float32)}
    said = {"expert_count": 4, "expert_used_count": 2}
    with refused("mixture of experts of architecture 'llama'", "Mixtral", "safetensors"):
        load_model(write(tmp_path / "tiny.gguf", "llama", tensors, said))


@pytest.mark.parametrize("architecture", ["olmoe", "deepseek2", "falcon", "command-r"])
def test_architectures_that_cannot_be_held_to_their_file_are_refused(tmp_path, architecture):
    tensors = {"token_embd.weight": np.zeros((304, 32), np.float32)}
    with refused(f"its architecture is '{architecture}'", "qwen3moe, stablelm, starcoder2"):
        load_model(write(tmp_path / "tiny.gguf", architecture, tensors, {}))
