"""Tiny random decoders of the real Hugging Face classes, one per way of building a layer."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from packaging.version import Version

from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import hooked_decoder
from tests.models.tiny import scramble

_SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_UNKNOWN = {
    "GPTNeoXConfig": ("num_key_value_heads",),
    "BloomConfig": (
        "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    ),
    "MptConfig": (
        "intermediate_size", "num_key_value_heads", "max_position_embeddings", "hidden_size",
        "num_attention_heads", "num_hidden_layers",
    ),
    "OPTConfig": ("num_key_value_heads", "intermediate_size"),
    "GPTNeoConfig": ("num_key_value_heads", "num_attention_heads", "num_hidden_layers"),
    "FalconConfig": ("num_key_value_heads", "intermediate_size"),
    "XGLMConfig": (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size",
    ),
    **dict.fromkeys(("BioGptConfig", "PersimmonConfig"), ("num_key_value_heads",)),
    **dict.fromkeys(("GPT2Config", "GPTJConfig", "CodeGenConfig", "GPTBigCodeConfig"), (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings",
    )),
}  # fmt: skip
"""Sizes that a configuration class has not, or by names of its own."""
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
_WIDE = {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_WINDOW = {"sliding_window": 5}
_LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 12, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
_LATENT_EXPERTS = {
    **_LATENT, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
_TURNS = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_ROPE = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3 = {**_ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaConfig", _WIDE),
    "gemma 2": ("Gemma2Config", {
        **_WIDE, **_WINDOW, **_TURNS, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 6.0}),
    "gemma 3": ("Gemma3TextConfig", {**_WIDE, **_WINDOW, **_TURNS, "query_pre_attn_scalar": 7}),
    "olmo": ("OlmoConfig", {"clip_qkv": 1.0}),
    "olmo 2": ("Olmo2Config", {}),
    "olmo 3": ("Olmo3Config", _WINDOW),
    "olmoe": ("OlmoeConfig", _EXPERTS),
    "llama": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama, biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("LlamaConfig", {"rope_parameters": {**_ROPE, "rope_type": "linear"}}),
    "llama, dynamic": ("LlamaConfig", {"rope_parameters": {**_ROPE, "rope_type": "dynamic"}}),
    "llama, yarn": ("LlamaConfig", {"rope_parameters": {**_ROPE, "rope_type": "yarn"}}),
    "llama 3": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "mistral": ("MistralConfig", _WINDOW),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "smollm 3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1, 0]}),
    "granite": ("GraniteConfig", {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.2,
        "logits_scaling": 2.0}),
    "stablelm": ("StableLmConfig", {"partial_rotary_factor": 0.5}),
    "stablelm, parallel": ("StableLmConfig", {"use_parallel_residual": True, "use_qkv_bias": True}),
    "starcoder 2": ("Starcoder2Config", _WINDOW),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "phi, normed queries": ("PhiConfig", {"qk_layernorm": True}),
    "phi 3": ("Phi3Config", _WINDOW),
    "cohere": ("CohereConfig", {"logit_scale": 0.3, "use_qk_norm": True}),
    "cohere 2": ("Cohere2Config", {**_WIDE, **_WINDOW, **_TURNS, "logit_scale": 0.3}),
    "qwen 2": ("Qwen2Config", {}),
    "qwen 3": ("Qwen3Config", _WIDE),
    "qwen 3 moe": ("Qwen3MoeConfig", {
        **_WIDE, **_EXPERTS, "moe_intermediate_size": 24, "norm_topk_prob": True}),
    "glm": ("GlmConfig", _WIDE),
    "glm 4": ("Glm4Config", _WIDE),
    "deepseek 2": ("DeepseekV2Config", _LATENT_EXPERTS),
    "deepseek 3": ("DeepseekV3Config", _LATENT_EXPERTS),
    "deepseek 3, wide values": ("DeepseekV3Config", {
        **_LATENT, "v_head_dim": 16, "first_k_dense_replace": 4}),
    "falcon": ("FalconConfig", {"multi_query": True, "parallel_attn": True, "alibi": False}),
    "falcon, two norms": ("FalconConfig", {
        "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}),
    "falcon, not parallel": ("FalconConfig", {
        "multi_query": False, "parallel_attn": False, "alibi": False, "bias": True}),
    "gpt-neox": ("GPTNeoXConfig", {"rotary_pct": 0.5}),
    "gpt-2": ("GPT2Config", _GPT2),
    "gpt-2, by layer": ("GPT2Config", {
        **_GPT2, "n_inner": 48, "scale_attn_by_inverse_layer_idx": True}),
    "gpt-j": ("GPTJConfig", {**_GPT2, "n_inner": 48, "rotary_dim": 4}),
    "gpt-neo": ("GPTNeoConfig", {
        "num_layers": 4, "num_heads": 4, "window_size": 5,
        "attention_types": [[["global", "local"], 2]]}),
    "bloom": ("BloomConfig", {"n_layer": 4, "n_head": 4}),
    "gpt-oss": ("GptOssConfig", {
        **_WIDE, **_WINDOW, **_TURNS, "num_local_experts": 4, "num_experts_per_tok": 2,
        "rope_parameters": {**_ROPE, "rope_type": "yarn"}}),
    "mpt": ("MptConfig", {
        "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 64,
        "attn_config": {"clip_qkv": 2.0, "softmax_scale": 0.3}}),
    "apertus": ("ApertusConfig", {}),
    "biogpt": ("BioGptConfig", {"scale_embedding": True}),
    "codegen": ("CodeGenConfig", {**_GPT2, "n_inner": 48, "rotary_dim": 4}),
    "ernie 4.5": ("Ernie4_5Config", _WIDE),
    "exaone 4": ("Exaone4Config", {**_WINDOW, **_TURNS}),
    "glm 4 moe": ("Glm4MoeConfig", {
        **_WIDE, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    "gpt-bigcode": ("GPTBigCodeConfig", {**_GPT2, "n_inner": 48, "multi_query": True}),
    "granite moe": ("GraniteMoeConfig", {
        "num_local_experts": 4, "num_experts_per_tok": 2, "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6, "attention_multiplier": 0.2, "logits_scaling": 2.0}),
    "helium": ("HeliumConfig", _WIDE),
    "hunyuan": ("HunYuanDenseV1Config", _WIDE),
    "ministral": ("MinistralConfig", {**_WIDE, **_WINDOW, **_TURNS}),
    "nemotron": ("NemotronConfig", {"partial_rotary_factor": 0.5}),
    "persimmon": ("PersimmonConfig", {"partial_rotary_factor": 0.5}),
    "phi moe": ("PhimoeConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen 2 moe": ("Qwen2MoeConfig", {
        **_EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}),
    "seed oss": ("SeedOssConfig", _WIDE),
    "vault gemma": ("VaultGemmaConfig", {
        **_WIDE, **_WINDOW, **_TURNS, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 6.0}),
    "xglm": ("XGLMConfig", {
        "d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 48}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}  # fmt: skip
"""Of each family its configuration class, and what differs from the sizes that all have."""

# Not tested with the lowest release of transformers: there the attention of the first does not go
# through its interface, and torch warns where the second is imported.
NEWER = {"CodeGenForCausalLM": "codegen", "GPTBigCodeForCausalLM": "gpt-bigcode"}
if Version(transformers.__version__) < Version("5.24"):
    CASES = {case: of for case, of in CASES.items() if case not in NEWER.values()}

# By day these stand for what a layer may have: norms on both sides, windows and soft-caps; a
# rotation for each kind of layer; norms behind alone; one norm for two sublayers; scales; experts;
# a table of positions; sinks.
BY_DAY = (
    "gemma 2", "gemma 3", "olmo 2", "cohere 2", "granite", "qwen 3 moe", "gpt-2, by layer",
    "gpt-oss",
)  # fmt: skip


def tiny_original(case: str, *, seed: int = 1, **fields: Any) -> Any:
    """A Hugging Face model of a case whose every weight matters, in evaluation mode."""
    name, own = CASES[case]
    unknown = _UNKNOWN.get(name, ())
    sizes = {field: value for field, value in _SIZES.items() if field not in unknown}
    config = getattr(transformers, name)(**{**sizes, **own, **fields})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    scramble(made, seed)
    return made.eval()


@functools.cache
def tiny_decoder(case: str) -> DecoderModel:
    """A hooked model over ``tiny_original``, made once; do not change its weights."""
    return hooked_decoder(tiny_original(case), None, case)
