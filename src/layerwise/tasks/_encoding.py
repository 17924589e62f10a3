"""Text to token ids, as lm-evaluation-harness encodes a context and a continuation.

What surely has room is known without encoding. Nothing here knows about items or protocols.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from tokenizers.models import BPE

from layerwise.errors import UserError, one_line
from layerwise.ground.limited import JobError
from layerwise.models.libraries.untrusted_tokenizer import (
    is_untrusted,
    render_chat_isolated,
    try_texts,
)
from layerwise.sweep.requests import Tokens

from ._requests import check_item, continuations, prompt
from .items import Item
from .task import Task

# Patterns none of whose matches has a space behind a character that is no white space: those of
# Llama 3 and of Qwen 2. That of GPT-2 is built in.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
PATTERNS = tuple(f"{_CONTRACTIONS}{numbers}{_REST}" for numbers in (r"\p{N}{1,3}", r"\p{N}"))
_VISIBLE = frozenset(map(chr, range(ord("!"), ord("~") + 1)))


@dataclass(frozen=True)
class ByteLevel:
    """A byte-level tokenizer whose tokens the model all knows."""

    n_special: int  # special tokens that it adds to a text
    end: str  # the end token's text, which encoding may take off

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, n_known: int) -> ByteLevel | None:
        """Facts of a tokenizer; None if it is of another kind, or has unknown tokens."""
        if not is_byte_level(tokenizer):
            return None
        backend = tokenizer.backend_tokenizer
        if max(backend.get_vocab(with_added_tokens=True).values()) >= n_known:
            return None
        end = getattr(tokenizer, "eos_token", None) or ""
        return cls(backend.num_special_tokens_to_add(False), end)

    def surely_fits(self, task: Task, item: Item, protocol: str, room: int) -> bool:
        """True if an item's requests surely have tokens of their own, and room in the model."""
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
        n_bytes = len(text) if text.isascii() else 4 * len(text)  # at most of a character
        return self.n_special + n_bytes


def is_byte_level(tokenizer: Any) -> bool:
    """True if a tokenizer is surely of this kind."""
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
    # No added token takes white space beside it, or has both that and other characters.
    apart = all(
        not (token.lstrip or token.rstrip or token.single_word)
        and (token.content.isspace() or not any(map(str.isspace, token.content)))
        for token in backend.get_added_tokens_decoder().values()
    )
    return plain and known and splits and apart


def _splits(before: dict[str, Any]) -> bool:
    """True if a pre-tokenizer splits before each space that stands behind another character."""
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


_SAME: dict[int, int] = {}
_BEGINS_ANEW: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@runtime_checkable
class Tokenizer(Protocol):
    """The interface of a Hugging Face tokenizer that is used."""

    def __call__(self, text: str, /, *, add_special_tokens: bool = True) -> Any:
        """A mapping with ``input_ids``."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], /, **kwargs: Any) -> Any:
        """The conversation as one text."""
        ...


def encode(tokenizer: Tokenizer, text: str, *, apart: bool = False) -> Tokens:
    """Token ids of ``text``, with the special tokens that the tokenizer itself puts first."""
    # A text that starts with the BOS token (a chat template writes it) does not get a second one,
    # and an end token that the tokenizer appends is dropped: the text goes on after it. An input of
    # an encoder-decoder, which is encoded apart, has its end token.
    bos, eos = (getattr(tokenizer, f"{name}_token", None) for name in ("bos", "eos"))
    bos = bos or (None if apart else eos)
    try_texts(tokenizer, text)
    special = not (bos and text.startswith(bos))
    ids = _tokens(tokenizer(text, add_special_tokens=special)["input_ids"])
    appended = bool(ids) and ids[-1] == getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if appended and not apart and not text.endswith(eos or "") else ids


def encode_pair(
    tokenizer: Tokenizer,
    context: str,
    continuation: str,
    start: Tokens | None = None,
    *,
    apart: bool = False,
) -> tuple[Tokens, Tokens]:
    """Token ids of a context and of the continuation that is scored after it."""
    # As ``_encode_pair`` of lm-evaluation-harness does: white space at the context's end moves to
    # the continuation. For causal models the whole and the context are encoded, and the
    # continuation is the rest; where the rest surely has its own encoding there, long contexts are
    # not encoded again with each option. Of an encoder-decoder (apart) the context gets all special
    # tokens that the tokenizer has for it, and the continuation, as a target text, none.
    stripped = context.rstrip()
    rest = context[len(stripped) :] + continuation
    if start is None:
        start = encode(tokenizer, stripped, apart=apart)
    if apart or (stripped and rest.startswith(" ") and _begins_anew_at_spaces(tokenizer)):
        try_texts(tokenizer, rest)
        plain: Any = partial(tokenizer, add_special_tokens=False)
        encoded = plain(text_target=rest) if apart else plain(rest)
        return start, _tokens(encoded["input_ids"])
    return start, encode(tokenizer, context + continuation)[len(start) :]


def _begins_anew_at_spaces(tokenizer: Tokenizer) -> bool:
    """True if a space behind another character begins a text that is encoded as by itself."""
    if tokenizer not in _BEGINS_ANEW:
        alone = tokenizer(" b", add_special_tokens=False)["input_ids"]
        adds_after = tokenizer("a b")["input_ids"] != tokenizer("a")["input_ids"] + alone
        _BEGINS_ANEW[tokenizer] = is_byte_level(tokenizer) and not adds_after
    return _BEGINS_ANEW[tokenizer]


def _tokens(ids: list[int]) -> Tokens:
    """Token ids, equal ones as one object, so that prompts take a fourth of the memory."""
    return tuple(map(_SAME.setdefault, ids, ids))


def as_chat(tokenizer: Tokenizer, prompt: str | list[dict[str, str]]) -> str:
    """The prompt, one user turn or several turns, up to where the model's answer goes on."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This model's tokenizer has no chat template; expected one because chat prompts were "
            "asked for; turn the chat option off."
        )
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    try:
        if is_untrusted(tokenizer):
            return render_chat_isolated(tokenizer, turns)
        # An answer that the last turn begins is gone on with.
        begun = turns[-1].get("role") == "assistant"
        ending = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
        text = tokenizer.apply_chat_template(turns, tokenize=False, **ending)
    except UserError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, JobError) else f"{type(error).__name__}: "
        raise UserError(
            f"The chat template of this model's tokenizer fails ({kind}{one_line(error)}): "
            "expected one that makes a prompt of these turns; turn the chat option off, or "
            "correct the template."
        ) from error
    if not isinstance(text, str):
        raise UserError(
            f"The chat template of this model's tokenizer gives no text ({type(text).__name__}): "
            "expected a prompt of these turns; turn the chat option off."
        )
    return text
