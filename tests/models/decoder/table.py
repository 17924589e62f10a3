"""The table of families in docs/models/backends.md.

``python -m tests.models.decoder.table`` prints it.

Every figure is measured on a tiny random model of the class: which backend ``load_model`` takes,
how far the log-probabilities of either backend are from the original's on texts several times as
long as a window, and how far the engine over the model's own modules is from brute force, over
skips, single heads, means, patches and texts. Beneath it are the distances of narrow formats, which
are told there too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from layerwise.models import load_model, model_facts
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import hooked_decoder
from layerwise.sweep import Generate, LogLikelihood, Scored, mean, patch, skip, sweep, zero
from layerwise.sweep.checks.rounding import distance
from tests.models.tiny import scramble, tiny_tokenizer

from .tiny import CASES, tiny_decoder, tiny_original

WORDS = {
    "gemma": "Gemma", "gemma 2": "Gemma 2: norms on both sides, windows, soft-caps",
    "gemma 3": "Gemma 3 (text): windows, a rotation for each kind of layer",
    "olmo": "OLMo: norms without weights, clipped queries and keys",
    "olmo 2": "OLMo-2: norms behind the sublayers alone",
    "olmo 3": "OLMo-3: the same, with windows", "olmoe": "OLMoE",
    "llama": "Llama", "llama, biases": "Llama with biases",
    "llama, linear": "Llama, linear scaling", "llama, dynamic": "Llama, dynamic scaling",
    "llama, yarn": "Llama, YaRN scaling", "llama 3": "Llama-3.1's scaling",
    "mistral": "Mistral, windows", "mixtral": "Mixtral",
    "smollm 3": "SmolLM3: layers without rotation", "granite": "Granite: scaled sums",
    "stablelm": "StableLM", "stablelm, parallel": "StableLM, parallel",
    "starcoder 2": "StarCoder2, windows", "phi": "Phi-1, Phi-2",
    "phi, normed queries": "Phi with normed queries and keys", "phi 3": "Phi-3, windows",
    "cohere": "Cohere (Command R): parallel, one norm", "cohere 2": "Cohere-2: the same, windows",
    "qwen 2": "Qwen2", "qwen 3": "Qwen3", "qwen 3 moe": "Qwen3-MoE", "glm": "GLM",
    "glm 4": "GLM-4: norms on both sides",
    "deepseek 2": "DeepSeek-V2: latent attention, experts",
    "deepseek 3": "DeepSeek-V3: the same",
    "deepseek 3, wide values": "DeepSeek-V3 with values wider than keys",
    "falcon": "Falcon: parallel, one norm, one key-value head",
    "falcon, two norms": "Falcon: parallel, two norms",
    "falcon, not parallel": "Falcon: attention before the MLP",
    "gpt-neox": "GPT-NeoX",
    "gpt-2": "GPT-2: a table of positions", "gpt-2, by layer": "GPT-2, scores scaled by layer",
    "gpt-j": "GPT-J: parallel, one norm", "gpt-neo": "GPT-Neo: windows, scores not scaled",
    "bloom": "Bloom: scores with slopes (ALiBi)",
    "mpt": "MPT: scores with slopes, clipped queries, keys and values",
    "gpt-oss": "GPT-OSS: attention sinks, windows, experts",
    "apertus": "Apertus: an activation with weights",
    "biogpt": "BioGPT: scaled embeddings, positions as OPT's",
    "codegen": "CodeGen: as GPT-J, one product for queries, keys and values",
    "ernie 4.5": "ERNIE 4.5", "exaone 4": "EXAONE 4: norms behind alone, layers without rotation",
    "glm 4 moe": "GLM-4.5: experts, one of them shared",
    "gpt-bigcode": "GPT-BigCode (StarCoder, SantaCoder): one key-value head",
    "granite moe": "Granite with experts", "helium": "Helium", "hunyuan": "HunYuan, dense",
    "ministral": "Ministral: windows in some layers", "nemotron": "Nemotron: norms with a bias",
    "persimmon": "Persimmon: normed queries and keys", "phi moe": "Phi-3.5-MoE",
    "qwen 2 moe": "Qwen2-MoE: a shared expert with a gate", "seed oss": "Seed-OSS",
    "vault gemma": "VaultGemma: norms before alone, soft-caps",
    "xglm": "XGLM: sines as positions, scaled embeddings",
    "opt": "OPT: a table of positions behind two rows",
}  # fmt: skip
"""Names of the cases in the table."""


def rows() -> Iterator[str]:
    """The lines of the table."""
    yield "| family | `auto` takes | sites | parity (nats) | engine and reference (nats) |"
    yield "|---|---|---|---|---|"
    for case in CASES:
        backend = _backend(case)
        model = tiny_decoder(case)
        apart, texts = _engine_error(model)
        assert not texts, case
        sites = "all but `resid_mid`" if model.cfg.parallel_attn_mlp else "all"
        cells = (WORDS[case], backend, sites, _nats_text(_parity(case, model)), _nats_text(apart))
        yield f"| {' | '.join(cells)} |"


def _nats_text(nats: float) -> str:
    return "0" if nats == 0 else f"{nats:.0e}"


def _backend(case: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        tiny_original(case, vocab_size=304).save_pretrained(place)
        tiny_tokenizer().save_pretrained(place)
        return model_facts(load_model(Path(place))).backend


@torch.inference_mode()
def _parity(case: str, model: DecoderModel) -> float:
    tokens = torch.randint(0, 50, (2, 60), generator=torch.Generator().manual_seed(0))
    # Scaling that changes with the length of a text ends before that.
    tokens = tokens[:, : model.cfg.n_ctx]
    expected: Any = tiny_original(case)(input_ids=tokens, use_cache=False).logits
    return float((model(tokens).log_softmax(-1) - expected.log_softmax(-1)).abs().max())


def _engine_error(model: DecoderModel) -> tuple[float, int]:
    """Largest difference of a token's log-probability in nats, and how many texts differ."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 50, (count,), generator=generator).tolist())

    begin = drawn(14)
    asked: list[Any] = [
        LogLikelihood((*begin, *drawn(2)), drawn(3), source=(*begin[:9], *drawn(7)))
        for _ in range(3)
    ]
    texts = [Generate((*begin, 5), 8), Generate(drawn(4), 12)]
    value = torch.randn(model.cfg.d_model, generator=generator)
    changes = [
        *map(skip, range(4)), *(zero("z", 1, head) for head in range(4)), zero("mlp_out", 2),
        mean("attn_out", 0, value),
    ]  # fmt: skip
    patches = [patch(site, 2, pos) for site in ("resid_pre", "attn_out") for pos in (-1, 3)]
    largest, parted = 0.0, 0
    for interventions, requests in ((changes, [*asked, *texts]), (patches, asked)):
        fast, slow = (
            sweep(model, interventions, requests, method=method).outcomes
            for method in ("engine", "reference")
        )
        for mine, theirs in zip(fast, slow, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                if isinstance(one, Scored):
                    largest = max(largest, distance(one, other))
                else:
                    parted += one != other
    return largest, parted


NARROW: dict[str, tuple[int, dict[str, Any]]] = {
    "GPTJ": (500, {"n_embd": 64, "n_layer": 2, "n_head": 8, "rotary_dim": 4}),
    "GPTNeo": (500, {
        "hidden_size": 64, "num_layers": 2, "num_heads": 8, "window_size": 100,
        "attention_types": [[["global", "local"], 1]]}),
    "Bloom": (2000, {"hidden_size": 64, "n_layer": 2, "n_head": 8}),
    "Mpt": (2000, {"d_model": 64, "n_layers": 2, "n_heads": 8, "max_seq_len": 2048}),
}  # fmt: skip
"""Of each family how long the text is, and the configuration."""


@torch.inference_mode()
def distances(family: str, dtype: torch.dtype) -> tuple[float, float]:
    """Distances of original and hooked model in a format from float32, in nats."""
    length, fields = NARROW[family]
    config = getattr(transformers, f"{family}Config")(vocab_size=50, **fields)
    kind = getattr(transformers, f"{family}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = kind._from_config(config, attn_implementation="eager").eval()
        tokens = torch.randint(2, 50, (1, length))
    scramble(original, 1)
    exact = original(tokens).logits.log_softmax(-1)
    original.to(dtype)
    theirs = original(tokens).logits.float().log_softmax(-1)
    ours = hooked_decoder(original, None, family)(tokens).float().log_softmax(-1)
    return float((theirs - exact).abs().max()), float((ours - exact).abs().max())


if __name__ == "__main__":
    for line in rows():
        print(line)
    for family, (length, _) in NARROW.items():
        theirs, ours = distances(family, torch.bfloat16)
        print(f"{family}, {length} tokens: original {theirs:.2g}, over its modules {ours:.2g} nats")
