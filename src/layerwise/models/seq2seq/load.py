"""From a Hugging Face encoder-decoder to a hooked one that is known to equal it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError

from .families import PARTS_OF
from .model import Seq2SeqModel

Tokens = tuple[int, ...]


def hooked_seq2seq(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> Seq2SeqModel:
    """The hooked model over an original, whose weights it uses."""
    prefix = decoder_prefix(original, tokenizer, name)
    parts = PARTS_OF[type(original).__name__](original)
    return Seq2SeqModel(original, parts, prefix=prefix, name=name, tokenizer=tokenizer)


def decoder_prefix(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[int, ...]:
    """The tokens with which the decoder begins before an answer."""
    # The start token; then the token that generation is forced to begin with, if there is one, or
    # else what the tokenizer puts before a target text (BART's ``<s>``), as in training.
    config: Any = original.generation_config
    # a configuration that was saved without it may have no such field at all
    of_model = getattr(original.config, "decoder_start_token_id", None)
    own = config.decoder_start_token_id
    start = of_model if own is None else own
    if start is None:
        raise UserError(
            f"Model {name!r} does not say with which token its decoder begins: expected "
            "decoder_start_token_id in config.json or generation_config.json; add it (for a "
            "multilingual model the token of the language to write)."
        )
    if config.forced_bos_token_id is not None:
        return int(start), int(config.forced_bos_token_id)
    return int(start), *_target_prefix(tokenizer)


def _target_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that a tokenizer puts before a target text."""
    whole = list(tokenizer(text_target="a").input_ids)
    bare = list(tokenizer(text_target="a", add_special_tokens=False).input_ids)
    affixes = surrounding_tokens(bare, whole)
    return () if affixes is None else affixes[0]


def surrounding_tokens(plain: Sequence[int], whole: Sequence[int]) -> tuple[Tokens, Tokens] | None:
    """Tokens before and after the first occurrence of a sequence; None without one."""
    size = len(plain)
    for start in range(len(whole) - size + 1):
        if size and tuple(whole[start : start + size]) == tuple(plain):
            return tuple(whole[:start]), tuple(whole[start + size :])
    return None
