"""Tokenizers of toy languages as files have them, which name no class of transformers."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast


def is_toy(folder: Path) -> bool:
    """True if the tokenizer in a folder is that of a toy language."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and "language" in json.loads(path.read_text("utf-8"))


def read_toy_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The toy tokenizer in a folder."""
    # ``AutoTokenizer`` would take it for the model family's own.
    return mark_for_transformer_lens(
        PreTrainedTokenizerFast.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    )


def mark_for_transformer_lens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, marked so that TransformerLens loads no other in its place."""
    # It loads another tokenizer by that name unless this one says that it adds the first token.
    tokenizer.init_kwargs.setdefault("name_or_path", "")
    tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer
