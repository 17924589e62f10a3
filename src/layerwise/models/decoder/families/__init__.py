"""Families of decoders: what each has beyond what is read by the usual names, by class.

Of a class that is not named here everything is read by the usual names; it is tried and compared
like the others.
"""

from collections.abc import Callable

from torch import nn

from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import read_parts

from . import bloom, cohere, fairseq, falcon, gpt_neo, gptj, granite, mpt

_FAMILIES = (bloom, cohere, fairseq, falcon, gpt_neo, gptj, granite, mpt)

_PARTS_OF: dict[str, Callable[[nn.Module], Parts]] = {
    architecture: family.parts_of for family in _FAMILIES for architecture in family.ARCHITECTURES
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


def parts_of(original: nn.Module) -> Parts:
    """The parts of a Hugging Face decoder."""
    return _PARTS_OF.get(type(original).__name__, read_parts)(original)
