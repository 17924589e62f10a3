"""Text to token ids, as lm-evaluation-harness encodes a context and a continuation.

Nothing here knows about items or protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from layerwise.errors import UserError, one_line
from layerwise.ground.limited import JobError
from layerwise.models.huggingface.untrusted_tokenizer import is_untrusted, render_apart, try_texts
from layerwise.sweep.requests import Tokens

from ._byte_level import is_byte_level

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


def encode(tokenizer: Tokenizer, text: str) -> Tokens:
    """Token ids of ``text``, with the special tokens that the tokenizer itself puts first."""
    # A text that starts with the BOS token (a chat template writes it) does not get a second one,
    # and an end token that the tokenizer appends is dropped: the text goes on after it.
    bos = getattr(tokenizer, "bos_token", None) or getattr(tokenizer, "eos_token", None)
    special = not (bos and text.startswith(bos))
    try_texts(tokenizer, text)
    ids = _tokens(tokenizer(text, add_special_tokens=special)["input_ids"])
    eos = getattr(tokenizer, "eos_token", None)
    appended = bool(ids) and ids[-1] == getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if appended and not text.endswith(eos or "") else ids


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str, start: Tokens | None = None
) -> tuple[Tokens, Tokens]:
    """Token ids of a context and of the continuation that is scored after it."""
    # As ``_encode_pair`` of lm-evaluation-harness does for causal models: white space at the
    # context's end moves to the continuation; the whole and the context are encoded, and the
    # continuation is the rest. Where the rest surely has its own encoding there, long contexts are
    # not encoded again with each option.
    stripped = context.rstrip()
    if start is None:
        start = encode(tokenizer, stripped)
    rest = context[len(stripped) :] + continuation
    if stripped and rest.startswith(" ") and _begins_anew_at_spaces(tokenizer):
        try_texts(tokenizer, rest)
        return start, _tokens(tokenizer(rest, add_special_tokens=False)["input_ids"])
    return start, encode(tokenizer, context + continuation)[len(start) :]


def _begins_anew_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a space behind another character begins a text that is encoded as by itself."""
    if tokenizer not in _BEGINS_ANEW:
        _BEGINS_ANEW[tokenizer] = is_byte_level(tokenizer) and not _adds_after(tokenizer)
    return _BEGINS_ANEW[tokenizer]


def _adds_after(tokenizer: Tokenizer) -> bool:
    """Whether it puts special tokens behind a text."""
    alone = tokenizer(" b", add_special_tokens=False)["input_ids"]
    return tokenizer("a b")["input_ids"] != tokenizer("a")["input_ids"] + alone


def encode_apart(
    tokenizer: Tokenizer, context: str, continuation: str, start: Tokens | None = None
) -> tuple[Tokens, Tokens]:
    """Token ids of an input of an encoder-decoder, and of what its decoder is to say."""
    # As ``_encode_pair`` of lm-evaluation-harness does for such models: white space at the
    # context's end moves to the continuation; the context gets all special tokens that the
    # tokenizer has for it, its end token too, and the continuation, as a target text, none.
    stripped = context.rstrip()
    target: Any = tokenizer
    answer = context[len(stripped) :] + continuation
    try_texts(tokenizer, answer)
    encoded = target(text_target=answer, add_special_tokens=False)
    if start is None:
        start = encode_input(tokenizer, stripped)
    return start, _tokens(encoded["input_ids"])


def encode_input(tokenizer: Tokenizer, text: str) -> Tokens:
    """Token ids of an input of an encoder-decoder, with all its special tokens."""
    # A text that starts with the BOS token (a chat template writes it) gets none of them.
    bos = getattr(tokenizer, "bos_token", None)
    special = not (bos and text.startswith(bos))
    try_texts(tokenizer, text)
    return _tokens(tokenizer(text, add_special_tokens=special)["input_ids"])


def _tokens(ids: list[int]) -> Tokens:
    """Token ids, equal ones as one object, so that prompts take a fourth of the memory."""
    return tuple(map(_SAME.setdefault, ids, ids))


def lengths_of_answers(
    tokenizer: Tokenizer, texts: Sequence[str], *, apart: bool = False
) -> list[int]:
    """Tokens of each text as a model writes it, without special ones."""
    encode_all: Any = tokenizer
    given = {"text_target": list(texts)} if apart else {"text": list(texts)}
    return [len(ids) for ids in encode_all(**given, add_special_tokens=False)["input_ids"]]


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
            return render_apart(tokenizer, turns)
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
