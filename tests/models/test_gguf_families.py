"""GGUF files of further families: what their originals say, and what is not read is refused."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch
import transformers
from einops import rearrange
from transformers import AutoModelForCausalLM

from layerwise.models import load_model, model_facts
from layerwise.models.names.gguf_files import folder_of_gguf
from tests.cases import in_long_runs
from tests.models.refusal import expect_refusal
from tests.models.test_gguf import write_gguf
from tests.models.tiny import scramble, tiny_tokenizer

PIECES = [
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *(f"▁{letter}" for letter in string.ascii_lowercase),
    *("▁", "e", "t", "a", "o", "n", "i"),
]
SIZES: dict[str, Any] = {
    "vocab_size": 304, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 5e5}
HALF = {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROUTED = {"expert_count": 4, "expert_used_count": 2}
GEMMA = {
    "vocab_size": len(PIECES), "head_dim": 256, "sliding_window": 5, "rms_norm_eps": 1e-5,
    "bos_token_id": 2, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}  # fmt: skip
OF_GEMMA = {
    "vocab_size": len(PIECES), "attention.key_length": 256, "attention.value_length": 256,
    "attention.sliding_window": 5, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip


class Family(NamedTuple):
    """Names of an architecture in a file, its configuration, and what else its header says."""

    architecture: str
    config: str
    fields: dict[str, Any]
    header: dict[str, Any]


FAMILIES = {
    # Whose positions and tokens transformers counts itself.
    "gpt2": Family(
        "gpt2", "GPT2Config", {"vocab_size": 301, "max_position_embeddings": 1024}, {}
    ),
    # Whose output is the embedding, whatever the file says.
    "bloom": Family("bloom", "BloomConfig", {"tie_word_embeddings": True}, {}),
    "llama": Family("llama", "LlamaConfig", {}, {}),
    "phi3": Family("phi3", "Phi3Config", {"rms_norm_eps": 1e-6}, {}),
    "qwen2": Family("qwen2", "Qwen2Config", {}, {}),
    # The size of whose heads transformers takes to be 128.
    "qwen3": Family("qwen3", "Qwen3Config", {"head_dim": 128}, {}),
    "gemma2": Family("gemma2", "Gemma2Config", GEMMA, {**OF_GEMMA, "rope.freq_base": 1e4}),
    "gemma3": Family(
        "gemma3", "Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 7},
        {**OF_GEMMA, "block_count": 7, "rope.freq_base": 1e6},
    ),
    "starcoder2": Family("starcoder2", "Starcoder2Config", {}, {}),
    "starcoder2, tied": Family(
        "starcoder2", "Starcoder2Config", {"tie_word_embeddings": True}, {}
    ),
    "stablelm": Family("stablelm", "StableLmConfig", HALF, {"rope.dimension_count": 4}),
    "stablelm, parallel": Family(
        "stablelm", "StableLmConfig",
        {**HALF, "use_parallel_residual": True, "use_qkv_bias": True}, {"rope.dimension_count": 4},
    ),
    "qwen2moe": Family(
        "qwen2moe", "Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 40}, ROUTED
    ),
    "qwen3moe": Family(
        "qwen3moe", "Qwen3MoeConfig", {**EXPERTS, "head_dim": 16, "norm_topk_prob": True},
        {**ROUTED, "attention.key_length": 16},
    ),
}  # fmt: skip
KINDS = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}


def random_original(name: str) -> Any:
    family = FAMILIES[name]
    rope = {} if name in ("gpt2", "bloom", "gemma2", "gemma3") else {"rope_parameters": ROPE}
    config = getattr(transformers, family.config)(**{**SIZES, **rope, **family.fields})
    # Gemma's others of transformers' earlier releases leave out soft-caps.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    scramble(model, 0)
    for weight_name, weight in model.named_parameters():
        if name.startswith("gemma") and "norm" in weight_name:  # which is added to 1
            weight.data = weight.data - 1
    return model.eval()


def gguf_tensors(model: Any, architecture: str) -> dict[str, np.ndarray]:
    """A model's tensors as llama.cpp's own script names and cuts them, tied embeddings once."""
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
            spellings = (name, name.partition(".")[2])  # of a model without its head
            found_in = (table.get_name(one, try_suffixes=(".weight", ".bias")) for one in spellings)
            key = next(filter(None, found_in))
            found[key] = weight[0] if name.endswith("shared_expert_gate.weight") else weight
            if architecture.startswith("gemma") and "norm" in name:
                found[key] = weight + 1
    return {
        key: np.ascontiguousarray(rows_in_file(weight, architecture, key).numpy(), np.float32)
        for key, weight in found.items()
    }


def rows_in_file(weight: torch.Tensor, architecture: str, key: str) -> torch.Tensor:
    """A weight as llama.cpp stores it: matrices transposed, rows of heads in its own order."""
    if architecture == "gpt2" and key.startswith("blk.") and weight.ndim == 2:
        return weight.T
    if architecture == "bloom" and ".attn_qkv." in key:
        return rearrange(weight, "(head qkv d) ... -> (qkv head d) ...", head=4, qkv=3)
    if architecture == "llama" and (".attn_q." in key or ".attn_k." in key):
        n_heads = 4 if ".attn_q." in key else 2
        return rearrange(weight, "(head half d) c -> (head d half) c", head=n_heads, half=2)
    return weight


def write(path: Path, architecture: str, tensors: dict[str, np.ndarray], said: Any) -> Path:
    """Write a file with these tensors, and a header of which some is said otherwise."""
    writer = gguf.GGUFWriter(path, architecture)
    settings = {
        "context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 48,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.freq_base": 5e5,
        "attention.layer_norm_rms_epsilon": 1e-6, "attention.layer_norm_epsilon": 1e-5,
        "vocab_size": 304, **said,
    }  # fmt: skip
    put = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in settings.items():
        if value is not None:
            put[type(value)](f"{architecture}.{key}", value)
    if architecture.startswith("gemma"):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(PIECES)
        writer.add_token_scores([-float(index) for index in range(len(PIECES))])
        special = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
    else:
        tokenizer = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
        tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
        writer.add_tokenizer_model("gpt2")
        tokens.append("<|endoftext|>")  # which transformers would add, among others
        if architecture == "starcoder2":  # whose vocabulary is counted by its tokens
            tokens += [f"<unused {n}>" for n in range(304 - len(tokens))]
        writer.add_token_list(tokens)
        writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
        special = {"bos": 0, "eos": 1, "pad": 1}
    for name, token in special.items():
        getattr(writer, f"add_{name}_token_id")(token)
    for name, weight in tensors.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_family_file(name: str, folder: Path, model: Any = None, **more: Any) -> Path:
    family, model = FAMILIES[name], model or random_original(name)
    tensors = gguf_tensors(model, family.architecture)
    return write(folder / "tiny.gguf", family.architecture, tensors, {**family.header, **more})


BY_DAY = (
    "gpt2",
    "bloom",
    "llama",
    "phi3",
    "qwen3",
    "gemma3",
    "starcoder2, tied",
    "stablelm, parallel",
    "qwen3moe",
)
SELDOM = in_long_runs(*((name,) for name in FAMILIES if name not in BY_DAY))


@pytest.mark.long(but=["qwen3moe", "gpt2"])
@pytest.mark.parametrize("name", [*BY_DAY, *SELDOM])
def test_a_file_says_what_its_original_says(tmp_path, name):
    original = random_original(name)
    model = load_model(write_family_file(name, tmp_path, original), backend="hugging-face")
    assert model_facts(model).source == "gguf"
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
        ("gemma3", {"rope.scaling.factor": 8.0}, ["'linear' of rotary scaling", "'none'"]),
    ],
)
def test_what_transformers_does_not_read_is_refused(tmp_path, family, said, parts, cache):
    with expect_refusal("tiny.gguf cannot be converted", "transformers reads", *parts):
        load_model(write_family_file(family, tmp_path, **said))
    assert list((cache / "gguf").iterdir()) == []


def test_a_window_pattern_that_is_the_usual_one_is_accepted(tmp_path):
    said = {"attention.sliding_window_pattern": 6, "rope.freq_base_swa": 1e4}
    folder_of_gguf(write_family_file("gemma3", tmp_path, **said))


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_rotary_scaling_that_is_not_read_is_refused_in_any_family(tmp_path, kind):
    said = {"rope.scaling.type": kind, "rope.scaling.factor": 4.0}
    with expect_refusal(f"'{kind}' of rotary scaling", "'none'"):
        load_model(write_gguf(tmp_path / "scaled.gguf", said=said))


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("kind", ["none", None])
def test_a_header_that_says_there_is_no_rotary_scaling_is_accepted(tmp_path, kind):
    said = {"rope.scaling.factor": 1.0} | ({"rope.scaling.type": kind} if kind else {})
    said |= {"rope.freq_base": 5e5}
    model = load_model(write_gguf(tmp_path / "plain.gguf", said=said))
    assert model.cfg.rotary_base == 5e5


def test_experts_that_are_missing_are_told(tmp_path):
    tensors = gguf_tensors(random_original("qwen3moe"), "qwen3moe")
    del tensors["blk.1.ffn_up_exps.weight"]
    path = write(tmp_path / "tiny.gguf", "qwen3moe", tensors, FAMILIES["qwen3moe"].header)
    with expect_refusal("lacks 1 tensor, blk.1.ffn_up_exps.weight"):
        load_model(path)


@pytest.mark.parametrize(
    ("architecture", "said", "parts"),
    [
        ("llama", ROUTED, ["mixture of experts of architecture 'llama'", "Mixtral"]),
        *((name, {}, [f"its architecture is '{name}'", "qwen3moe, stablelm, starcoder2"])
          for name in ("olmoe", "falcon")),
    ],
)  # fmt: skip
def test_architectures_that_cannot_be_held_to_their_file_are_refused(
    tmp_path, architecture, said, parts
):
    tensors = {"token_embd.weight": np.zeros((304, 32), np.float32)}
    with expect_refusal(*parts):
        load_model(write(tmp_path / "tiny.gguf", architecture, tensors, said))
