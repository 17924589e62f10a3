"""Tiny random encoder-decoder models of each family, several configurations each."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.families import PARTS_OF
from tests.models.tiny import scramble, session_folder, tiny_tokenizer

_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_V1_1 = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}
_OTHER_BART = {**_BART, "scale_embedding": True, "decoder_attention_heads": 2, "decoder_layers": 2}


@dataclass(frozen=True)
class Tiny:
    """A family in one configuration."""

    config: str
    model: str
    given: dict[str, Any]
    untied: bool = False


CASES: dict[str, Tiny] = {
    "t5": Tiny("T5Config", "T5ForConditionalGeneration", _T5),
    "t5-one-layer": Tiny(
        "T5Config",
        "T5ForConditionalGeneration",
        {**_T5, "num_layers": 1, "num_decoder_layers": 1, "d_kv": 12},
    ),
    "flan-t5": Tiny("T5Config", "T5ForConditionalGeneration", _V1_1, untied=True),
    "mt5": Tiny("MT5Config", "MT5ForConditionalGeneration", _V1_1, untied=True),
    "bart": Tiny("BartConfig", "BartForConditionalGeneration", _BART),
    "bart-scaled": Tiny("BartConfig", "BartForConditionalGeneration", _OTHER_BART),
    "mbart": Tiny("MBartConfig", "MBartForConditionalGeneration", _BART),
    "mbart-scaled": Tiny("MBartConfig", "MBartForConditionalGeneration", _OTHER_BART),
    "marian": Tiny("MarianConfig", "MarianMTModel", {**_BART, "activation_function": "swish"}),
    "marian-scaled": Tiny("MarianConfig", "MarianMTModel", _OTHER_BART),
    "pegasus": Tiny("PegasusConfig", "PegasusForConditionalGeneration", _BART),
    "pegasus-scaled": Tiny("PegasusConfig", "PegasusForConditionalGeneration", _OTHER_BART),
}


@functools.cache
@torch.inference_mode(False)
def tiny_original(case: str, *, seed: int = 0) -> Any:
    """The Hugging Face model of a case, its weights drawn wide, the logits' bias too."""
    import transformers

    known = CASES[case]
    config = getattr(transformers, known.config)(vocab_size=304, **known.given)
    model = getattr(transformers, known.model)._from_config(config, attn_implementation="eager")
    fixed = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    scramble(model, seed)
    for name, parameter in model.named_parameters():
        if name in fixed:  # sinusoids, which are not saved
            parameter.data = fixed[name]
    generator = torch.Generator().manual_seed(seed)
    if known.untied:
        drawn = torch.randn(model.lm_head.weight.shape, generator=generator) / 4
        model.lm_head.weight = torch.nn.Parameter(drawn)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.copy_(torch.randn(1, 304, generator=generator) / 4)
    return model.requires_grad_(False).eval()


@functools.cache
def tiny_folder(case: str) -> Path:
    """The model and its tokenizer in hub format."""
    folder = Path(tempfile.mkdtemp(prefix=f"{case}-", dir=session_folder()))
    tiny_original(case).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_seq2seq(case: str) -> Seq2SeqModel:
    """The hooked model of a case, without the checks of loading."""
    original = tiny_original(case)
    parts = PARTS_OF[type(original).__name__](original)
    prefix = (original.config.decoder_start_token_id,)
    return Seq2SeqModel(original, parts, prefix=prefix, name=case, tokenizer=tiny_tokenizer())
