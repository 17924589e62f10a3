"""Tokenizers of untrusted folders: texts are tried in a limited process before they are encoded.

A pattern or a normalizer may take hours or all memory for a text, and nothing can interrupt it
in this process. Chat templates are rendered in such a process alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from layerwise.errors import UserError
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError
from layerwise.models.files.cache import contents_sha256, read_record, record_key, write_record

_FOLDER = "layerwise_untrusted_folder"
_FILE = "tokenizer.json"
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_KIND = "tokenizers"
# Runs of one character, which patterns that repeat repetitions take longest for.
_RUNS = tuple(
    f"{character * 2000}{end}" for character in ("a", "A", "1", " ", "\n", ".", "é") for end in "!a"
)
# A character is at most some tens of tokens, whatever normalizers and bytes make of it.
_TOKENS_EACH, _TOKENS_MORE = 64, 1000
_TEMPLATE_CHARACTERS = 200_000
_GROWTH = 64  # of a text when it is decoded
# Far above any vocabulary: the library lists all ids that are missing below the largest, and aborts
# the process for want of memory, in some releases where transformers copies what it just read.
_MOST_IDS = 2**24

_MOST_REMEMBERED = 100_000  # texts that were tried

_COUNTING: WeakKeyDictionary[Any, tuple[LimitedProcess, set[int]]] = WeakKeyDictionary()
_RENDERING: WeakKeyDictionary[Any, LimitedProcess] = WeakKeyDictionary()


def refuse_costly_file(folder: Path) -> None:
    """Try to read the ``tokenizer.json`` of a folder and to encode long runs of one character."""
    # Files that passed are remembered in the cache folder.
    files = [folder / name for name in (_FILE, *_BESIDE) if (folder / name).is_file()]
    if not files or files[0].name != _FILE:
        return
    version = metadata.version("tokenizers")
    hashes = (part for file in files for part in (file.name, contents_sha256(file)))
    key = record_key([version, *_RUNS, *hashes])
    if read_record(_KIND, key) is None:
        setup = {"file": str(files[0]), "beside": [str(file) for file in files[1:]]}
        with contextlib.suppress(JobError):  # its files cannot be read here either
            _count_tokens(folder, LimitedProcess("count_tokens", lambda: setup), [*_RUNS])
        write_record(_KIND, key, {"passed": True})


def distrust(tokenizer: Any, folder: Path) -> None:
    """Mark a tokenizer as untrusted; refuse huge ids, and decoders that let texts grow."""
    _refuse_huge_id(folder, max(tokenizer.get_vocab().values(), default=-1))
    setattr(tokenizer, _FOLDER, str(folder))
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    if decoder is not None and _growth(json.loads(decoder.__getstate__())) > _GROWTH:
        raise UserError(
            f"The decoder of the tokenizer in {folder} replaces a pattern, or lets texts grow more "
            f"than {_GROWTH} times: expected replacements of plain texts; use the tokenizer that "
            "the model was trained with."
        )


def _refuse_huge_id(folder: Path | str, largest: int) -> None:
    if largest >= _MOST_IDS:
        raise UserError(
            f"The tokenizer in {folder} has token id {largest:,}: expected ids below "
            f"{_MOST_IDS:,}; use the tokenizer that the model was trained with."
        )


def _growth(decoder: dict[str, Any]) -> float:
    """Factor by which a decoder may lengthen a text; infinite if it matches a pattern."""
    match decoder:
        case {"type": "Sequence", "decoders": parts}:
            return math.prod(map(_growth, parts))
        case {"type": "Replace", "pattern": {"String": plain}, "content": content} if plain:
            return max(1.0, len(content) / len(plain))
        case {"type": "Replace"}:
            return math.inf
        case {"type": "ByteLevel" | "ByteFallback" | "Fuse" | "Metaspace" | "Strip"}:
            return 1.0
    return 2.0  # the others put a space between pieces


def try_texts(tokenizer: Any, *texts: str) -> None:
    """Encode texts in a limited process first, if the tokenizer comes from an untrusted folder."""
    folder = getattr(tokenizer, _FOLDER, None)
    if folder is None or not tokenizer.is_fast:
        return
    if tokenizer not in _COUNTING:
        alive: Any = ref(tokenizer)
        made = LimitedProcess("count_tokens", lambda: {"json": alive().backend_tokenizer.to_str()})
        _COUNTING[tokenizer] = made, set()
    process, tried = _COUNTING[tokenizer]
    new = {hash(text): text for text in texts if hash(text) not in tried}
    if not new:
        return
    try:
        counts = _count_tokens(folder, process, list(new.values()))
        failures = [count for count in counts if isinstance(count, str)]
    except JobError as error:
        failures = [str(error)]
    if failures:
        raise UserError(
            f"The tokenizer in {folder} fails ({' '.join(failures[0].split())[:200]}): expected "
            "tokens of any text; use the tokenizer that the model was trained with."
        )
    if len(tried) > _MOST_REMEMBERED:
        tried.clear()
    tried.update(new)


def _count_tokens(folder: Path | str, process: LimitedProcess, texts: list[str]) -> list[int | str]:
    """The numbers of tokens of texts, or why one cannot be encoded."""
    longest = max(map(len, texts), default=0)
    try:
        answer = process.ask(texts, sum(map(len, texts)))
    except OverLimitError as limit:
        raise UserError(
            f"The tokenizer in {folder} needs more than {limit} for texts of up to {longest:,} "
            "characters: expected far less; use the tokenizer that the model was "
            "trained with."
        ) from limit
    _refuse_huge_id(folder, answer["largest_id"])
    for text, n_tokens in zip(texts, answer["counts"], strict=True):
        if isinstance(n_tokens, int) and n_tokens > _TOKENS_EACH * len(text) + _TOKENS_MORE:
            raise UserError(
                f"The tokenizer in {folder} makes {n_tokens:,} tokens of a text of {len(text):,} "
                f"characters: expected at most {_TOKENS_EACH} a character; use the tokenizer that "
                "the model was trained with."
            )
    return answer["counts"]


def is_untrusted(tokenizer: Any) -> bool:
    """True if a tokenizer comes from an untrusted folder."""
    return getattr(tokenizer, _FOLDER, None) is not None


def render_chat_isolated(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """Turns of a chat by a tokenizer's chat template, rendered in a limited process."""
    process = _RENDERING.get(tokenizer)
    if process is None:
        alive = ref(tokenizer)
        process = LimitedProcess("render_template", lambda: _template_settings(alive()))
        _RENDERING[tokenizer] = process
    refusal = "expected a prompt of these turns; turn the chat option off, or correct the template"
    where = f"The chat template in {getattr(tokenizer, _FOLDER)}"
    length = sum(len(turn.get("content", "")) for turn in turns)
    try:
        answer = process.ask(turns, length)
    except OverLimitError as limit:
        raise UserError(f"{where} needs more than {limit}: {refusal}.") from limit
    if answer["n_characters"] > len(answer["text"]):
        raise UserError(
            f"{where} makes {answer['n_characters']:,} characters of a prompt of {length:,}: "
            f"{refusal}."
        )
    return answer["text"]


def _template_settings(tokenizer: Any) -> dict[str, Any]:
    return {
        "template": tokenizer.get_chat_template(),
        "special_tokens": dict(tokenizer.special_tokens_map),
        "most": _TEMPLATE_CHARACTERS,
    }
