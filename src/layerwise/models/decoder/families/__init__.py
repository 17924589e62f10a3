"""Families of decoders: what each has beyond what is read by the usual names, by class.

Of a class that is not named here everything is read by the usual names; it is tried and compared
like the others.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from layerwise.models.decoder.parts import DecoderParts
from layerwise.models.decoder.reading import FamilyTraits, read_parts

from . import own_modules


def _cohere(original: nn.Module) -> DecoderParts:
    """Command R: logits are scaled."""
    config: Any = original.config
    return read_parts(original, FamilyTraits(logit_scale=config.logit_scale))


def _granite(original: nn.Module) -> DecoderParts:
    """Granite: embeddings, outputs of sublayers and logits are scaled."""
    config: Any = original.config
    scales = config.embedding_multiplier, config.residual_multiplier, 1 / config.logits_scaling
    return read_parts(original, FamilyTraits(*scales))


_PARTS_OF: dict[str, Callable[[nn.Module], DecoderParts]] = {
    **own_modules.PARTS_OF,
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM"), _cohere),
    **dict.fromkeys(("GraniteForCausalLM", "GraniteMoeForCausalLM"), _granite),
}

TESTED = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "Apertus", "BioGpt", "Bloom", "CodeGen", "Cohere", "Cohere2", "DeepseekV2",
        "DeepseekV3", "Ernie4_5", "Exaone4", "Falcon", "GPTBigCode", "GPTJ", "GPTNeo", "GPTNeoX",
        "Gemma", "Gemma2", "Gemma3", "Glm", "Glm4", "Glm4Moe", "GptOss", "Granite", "GraniteMoe",
        "Helium", "HunYuanDenseV1", "Llama", "Ministral", "Mistral", "Mixtral", "Mpt", "Nemotron",
        "OPT", "Olmo", "Olmo2", "Olmo3", "Olmoe", "Persimmon", "Phi", "Phi3", "Phimoe", "Qwen2",
        "Qwen2Moe", "Qwen3", "Qwen3Moe", "SeedOss", "SmolLM3", "StableLm", "Starcoder2",
        "VaultGemma", "XGLM",
    )
) | {"GPT2LMHeadModel"}  # fmt: skip
"""Classes of which tiny random models are held to their originals, and the engine to them."""
WRITTEN = frozenset({"WiredDecoder"})
"""Classes of layerwise's own, which are held to TransformerLens with the same weights."""


def decoder_parts(original: nn.Module) -> DecoderParts:
    """The parts of a Hugging Face decoder."""
    return _PARTS_OF.get(type(original).__name__, read_parts)(original)
