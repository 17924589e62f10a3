"""Requests that surely have room, known without encoding them, for byte-level tokenizers.

Each token of such a tokenizer stands for at least one byte of the text, and a space behind another
character begins a new token. What a request needs exactly, ``_encoding`` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers.models import BPE

from ._requests import check_item, continuations, prompt
from .items import Item
from .task import Task

# Patterns none of whose matches has a space behind a character that is no white space: those of
# Llama 3 and of Qwen 2. That of GPT-2 is built in.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
PATTERNS = tuple(f"{_CONTRACTIONS}{numbers}{_REST}" for numbers in (r"\p{N}{1,3}", r"\p{N}"))
_MOST_BYTES = 4  # of a character
_VISIBLE = frozenset(map(chr, range(ord("!"), ord("~") + 1)))


@dataclass(frozen=True)
class ByteLevel:
    """A byte-level tokenizer whose tokens the model all knows.

    Attributes:
        n_special: special tokens that it adds to a text.
        end: the end token's text, which encoding may take off.
    """

    n_special: int
    end: str

    @classmethod
    def of(cls, tokenizer: Any, n_known: int) -> ByteLevel | None:
        """What is known of a tokenizer; None if it is of another kind, or has unknown tokens."""
        if not is_byte_level(tokenizer):
            return None
        backend = tokenizer.backend_tokenizer
        if max(backend.get_vocab(with_added_tokens=True).values()) >= n_known:
            return None
        end = getattr(tokenizer, "eos_token", None) or ""
        return cls(backend.num_special_tokens_to_add(False), end)

    def surely_fits(self, task: Task, item: Item, protocol: str, room: int) -> bool:
        """Whether an item's requests surely have tokens of their own, and room in the model.

        Raises:
            UserError: an item that cannot be asked under the protocol.
        """
        check_item(task, item, protocol)
        context = prompt(task, item, protocol)
        start = context.rstrip()
        if (
            item.ending is not None
            or (self.end and self.end in context)
            or not _VISIBLE.intersection(start)
        ):
            return False
        if protocol == "generate":
            return self._most_tokens(context) + task.max_tokens <= room
        for continuation in continuations(task, item, protocol):
            rest = context[len(start) :] + continuation
            if not rest.startswith(" ") or self._most_tokens(start + rest) > room:
                return False
        return True

    def _most_tokens(self, text: str) -> int:
        n_bytes = len(text) if text.isascii() else _MOST_BYTES * len(text)
        return self.n_special + n_bytes


def is_byte_level(tokenizer: Any) -> bool:
    """Whether a tokenizer is surely of this kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    model, before = backend.model, backend.pre_tokenizer
    if backend.normalizer is not None or before is None or not isinstance(model, BPE):
        return False
    plain = not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
    # Bytes that are no token are left out of a text; many tokenizers lack those of no UTF-8.
    unknown = () if model.unk_token is None else (model.unk_token,)
    known = all(backend.token_to_id(one) is not None for one in ("Ġ", *_VISIBLE, *unknown))
    splits = _splits(json.loads(before.__getstate__()))
    added = backend.get_added_tokens_decoder().values()
    return plain and known and splits and _are_apart(added)


def _splits(before: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer splits before each space that stands behind another character."""
    parts = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    kinds = [part["type"] for part in parts]
    if kinds.count("ByteLevel") != 1 or not set(kinds) <= {"ByteLevel", "Digits", "Split"}:
        return False
    (last,) = [part for part in parts if part["type"] == "ByteLevel"]
    patterns = [part for part in parts if part["type"] == "Split"]
    known = all(
        part["pattern"].get("Regex") in PATTERNS and part["behavior"] == "Isolated"
        and not part["invert"]
        for part in patterns
    )  # fmt: skip
    return not last["add_prefix_space"] and known and (last["use_regex"] or bool(patterns))


def _are_apart(added: Iterable[Any]) -> bool:
    """Whether no added token takes white space beside it, or has both that and other characters."""
    return all(
        not (token.lstrip or token.rstrip or token.single_word)
        and (token.content.isspace() or not any(map(str.isspace, token.content)))
        for token in added
    )
