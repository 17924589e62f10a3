"""A model's generation settings: the tokens that end a text, and what is not used of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from layerwise.errors import UserError, one_line
from layerwise.models.libraries.quiet import quiet

# What would change the text of generate(do_sample=False, num_beams=1), and the value that does not.
_CHANGING: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "stop_strings": None,
}

_OF_MODEL: dict[str, Any] = {"_from_model_config": True}


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of a model that shape its texts."""

    # Ids of the tokens that end a text, in ascending order; none if they name none.
    end_tokens: tuple[int, ...] = ()
    # Settings that would change greedy texts and are not used, as ``name=value``.
    unused: tuple[str, ...] = ()

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> GenerationSettings:
        """The settings that ``generate`` of transformers would use."""
        named = config.eos_token_id
        ends = () if named is None else (named,) if isinstance(named, int) else tuple(named)
        return cls(tuple(sorted({int(end) for end in ends})), tuple(_unused_settings(config)))


def _unused_settings(config: GenerationConfig) -> Iterator[str]:
    for name, nothing in _CHANGING.items():
        value = getattr(config, name, None)
        if value not in (None, nothing, []):
            text = repr(value)
            yield f"{name}={text if len(text) <= 60 else text[:57] + '...'}"


def read_generation_settings(folder: Path) -> GenerationSettings:
    """The settings of a model's folder: those of ``generation_config.json``."""
    # As in transformers, those of ``config.json`` where there is no such file.
    try:
        with quiet():
            has_own = (folder / "generation_config.json").is_file()
            file, more = ("generation_config.json", {}) if has_own else ("config.json", _OF_MODEL)
            return GenerationSettings.from_generation_config(
                GenerationConfig.from_pretrained(folder, file, local_files_only=True, **more)
            )
    except Exception as error:
        raise UserError(
            f"The generation settings in {folder} cannot be read ({type(error).__name__}: "
            f"{one_line(error)}): expected a generation_config.json that transformers accepts; "
            "restore the file."
        ) from error
