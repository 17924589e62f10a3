"""Tiny random models with a small real tokenizer, written to disk in hub format.

Their weights are drawn wide, biases and norm weights too, so that a wrong conversion shows
in the log-probabilities; tests of every part of the package may use them.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tests.hooked import HookedTransformer

CORPUS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Question: what is 2 + 3? Answer: 5. Question: what is 4 + 4? Answer: 8.",
    "A key opens a door; the red key opens the red door, the blue key the blue one.",
    "((a) [b] {c}) one two three four five six seven eight nine ten",
)
TEXT = " ".join(CORPUS[:3])

_MODERN: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_GPT: dict[str, Any] = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256}
_NEOX: dict[str, Any] = {
    **{key: value for key, value in _MODERN.items() if key != "num_key_value_heads"},
    "rotary_pct": 0.5,
}
_NEO: dict[str, Any] = {
    "hidden_size": 48,
    "num_layers": 4,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 9,
    "max_position_embeddings": 256,
}
_OPT: dict[str, Any] = {
    "hidden_size": 48,
    "word_embed_proj_dim": 48,
    "ffn_dim": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT),
    "gpt_neox": ("GPTNeoXConfig", _NEOX),
    "llama": ("LlamaConfig", _MODERN),
    "mistral": ("MistralConfig", _MODERN),
    "qwen2": ("Qwen2Config", _MODERN),
    "qwen3": ("Qwen3Config", {**_MODERN, "head_dim": 12}),
    "opt": ("OPTConfig", _OPT),
    "phi3": ("Phi3Config", _MODERN),
    "mixtral": ("MixtralConfig", {**_MODERN, "num_local_experts": 4}),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 8}),
    "gpt_neo": ("GPTNeoConfig", _NEO),
    "bloom": ("BloomConfig", {"hidden_size": 48, "n_layer": 3, "n_head": 4}),
}


def tiny_tokenizer(*, bos: bool = False, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on ``CORPUS``; ``bos`` makes it prepend ``<s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def scramble(model: PreTrainedModel, seed: int) -> None:
    """Draw every parameter anew, wide enough that each of them matters to the logits."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            centre = 1.0 if "norm" in name or "ln_" in name else 0.0
            parameter.data = centre + 0.3 * noise if name.endswith("weight") else 0.3 * noise
        elif "emb" in name or "wte" in name or "wpe" in name:
            parameter.data = 0.5 * noise
        else:
            parameter.data = 1.5 * noise / parameter.shape[-1] ** 0.5
    model.tie_weights()


def tiny_folder(
    tmp_path: Path, family: str, *, bos: bool = False, seed: int = 0, **config: Any
) -> Path:
    """Write a tiny random model of ``family`` and its tokenizer into a folder of a new name.

    ``config`` are fields of the Hugging Face configuration that differ from the tiny defaults.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{family}-", dir=tmp_path))

    def write(drawn: Path) -> None:
        import transformers

        config_name, defaults = FAMILIES[family]
        tokenizer = tiny_tokenizer(bos=bos)
        fields = {
            "vocab_size": 304,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **defaults,
            **config,
        }
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, config_name)(**fields)
        )
        scramble(model, seed)
        model.save_pretrained(drawn)
        tokenizer.save_pretrained(drawn)

    return copied_folder(f"{family} {bos} {seed} {config}", write, folder)


def copied_folder(key: str, write: Callable[[Path], None], folder: Path) -> Path:
    """Fill a folder with what ``write`` writes, which is kept by its key for the next time."""
    if key not in _WRITTEN:
        drawn = Path(tempfile.mkdtemp(dir=session_folder()))
        write(drawn)
        _WRITTEN[key] = drawn
    # Files of now: by their times the cache of hashes tells what may still change.
    return shutil.copytree(_WRITTEN[key], folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


_WRITTEN: dict[str, Path] = {}


@functools.cache
def session_folder() -> Path:
    """A folder that lives as long as the session."""
    folder = Path(tempfile.mkdtemp(prefix="layerwise-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def tiny_model(
    family: str, *, bos: bool = False, seed: int = 0, **config: Any
) -> HookedTransformer:
    """The loaded model of ``tiny_folder``, made once a session; do not change its weights.

    Values in ``config`` must be hashable.
    """
    from layerwise.models import load_model

    root = session_folder()
    folder = tiny_folder(root, family, bos=bos, seed=seed, **config)
    with mock.patch.dict(os.environ, {"LAYERWISE_CACHE": str(root / "cache")}):
        return load_model(folder)
