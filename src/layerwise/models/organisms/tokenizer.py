"""From a toy language's text to tokens: one token a word, white space of any kind between words."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .language import PAD, START, UNKNOWN, Language


def toy_tokenizer(language: Language, first: str | None = START) -> PreTrainedTokenizerFast:
    """A tokenizer that carries the language's name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(language.words)}
    plain = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    if first is not None:
        plain.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{first} $A", special_tokens=[(first, ids[first])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=first,
        unk_token=UNKNOWN,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        language=language.name,
    )
    return _kept_by_transformer_lens(tokenizer)


def is_toy(folder: Path) -> bool:
    """Whether the tokenizer in a folder is that of a toy language."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and "language" in json.loads(path.read_text("utf-8"))


def read_toy_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The toy tokenizer in a folder."""
    # ``AutoTokenizer`` would take it for the model family's own.
    return _kept_by_transformer_lens(
        PreTrainedTokenizerFast.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    )


def _kept_by_transformer_lens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    # It loads another tokenizer by that name unless this one says that it adds the first token.
    tokenizer.init_kwargs.setdefault("name_or_path", "")
    tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer
