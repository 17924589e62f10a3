"""Prompts that a person types: their tokens, and tokens as people can read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from layerwise.errors import UserError, count_noun, short_repr
from layerwise.ground.argument_types import ExpectedWords, Heads
from layerwise.ground.arguments import Argument
from layerwise.ground.readers import Reads, entries, plain, refuse
from layerwise.models.instance.facts import model_origin, original_tokenizer, tokenizer_language
from layerwise.models.instance.kinds import Model, is_seq2seq, vocabularies
from layerwise.models.libraries.untrusted_tokenizer import try_texts
from layerwise.sweep.requests import Generate, Tokens, refuse_unknown_tokens
from layerwise.tasks._encoding import as_chat, encode, encode_pair
from layerwise.tasks.registry import TEXT

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text, token ids, or the turns of a chat."""
SPACE, NEWLINE, TAB = "␣", "↵", "⇥"
_VISIBLE = str.maketrans({" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": "␍", "\u00a0": "⍽"})
# A mark without width, behind which text goes on from left to right.
_LEFT_TO_RIGHT = "\u200e"
# What accents stand on that begin a token; variation selectors, which emoji end with, show nothing.
_CIRCLE, _SELECTORS = "◌", ("\ufe0e", "\ufe0f")
# Characters of a prompt that are shown where it is not what a figure is about.
_SHORT = 60
# What a piece of SentencePiece begins with where a space stands before it.
_WORD_START = "▁"


def encode_prompt(model: Model, prompt: Prompt, *, chat: bool = False) -> Tokens:
    """Token ids of a prompt, with the special tokens that the tokenizer puts there."""
    turns = not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping)
    given: Any = prompt
    if isinstance(prompt, str) or turns:
        tokenizer: Any = original_tokenizer(model)
        text = as_chat(tokenizer, given) if chat or turns else given
        if not text:
            raise UserError("The prompt is empty: expected some text; write one.")
        _refuse_unknown_words(model, tokenizer, text)
        tokens = encode(tokenizer, text, apart=is_seq2seq(model))
    else:
        tokens = tuple(int(one) for one in given)
    if not tokens:
        raise UserError("The prompt has no token: expected at least one; write some text.")
    refuse_unknown_tokens([Generate(tokens, 0)], *vocabularies(model))
    longest = model.cfg.n_ctx
    if longest and len(tokens) > longest:
        raise UserError(
            f"The prompt has {count_noun(len(tokens), 'token')} and the model's context {longest}: "
            "expected no more; shorten the prompt."
        )
    return tokens


def _refuse_unknown_words(model: Model, tokenizer: Any, text: str) -> None:
    """Refuse a text that a model of a toy language reads as unknown words."""
    if tokenizer_language(tokenizer) == TEXT:
        return
    words = [one for one in tokenizer.get_vocab() if one.isalnum()]
    unknown = [one for one in text.split() if one not in tokenizer.get_vocab()]
    if unknown:
        raise UserError(
            f"The model does not know {short_repr(unknown[0])}: it speaks a toy language; expected "
            f"words such as {', '.join(sorted(words)[:3])}; write these."
        )


def single_token_id(model: Model, text: str | int, name: str = "token") -> int:
    """The id of a text that is one token of the model's vocabulary."""
    if isinstance(text, int):
        refuse_unknown_tokens([Generate((text,), 0)], *vocabularies(model))
        return text
    tokenizer: Any = original_tokenizer(model)
    if is_seq2seq(model):
        _, ids = encode_pair(tokenizer, "", text, (), apart=True)
    else:
        try_texts(tokenizer, text)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not ids or (unknown is not None and unknown in ids):
        raise UserError(
            f"The {name} {text!r} is not in the model's vocabulary: expected a text that its "
            "tokenizer knows; write it otherwise."
        )
    if len(ids) > 1:
        parts = ", ".join(repr(token_text(tokenizer, one)) for one in ids)
        space = "" if text.startswith(" ") else "; a word within a text begins with a space"
        raise UserError(
            f"The {name} {text!r} is {len(ids)} tokens ({parts}): expected one; "
            f"take the first, {token_text(tokenizer, ids[0])!r}{space}."
        )
    return next(iter(ids))


def answer_ids(model: Model, answer: str | int, wrong: str | int) -> tuple[int, int]:
    """The ids of an answer and of a wrong one, which is another token."""
    right, other = (
        single_token_id(model, answer, "answer"),
        single_token_id(model, wrong, "wrong answer"),
    )
    if right == other:
        raise UserError(f"Both answers are {answer!r}: expected two tokens; name another.")
    return right, other


def token_text(tokenizer: Any, token: int) -> str:
    """The text of one token, with the space before it; bytes of a character as <0xE4B8>."""
    piece = tokenizer.convert_ids_to_tokens(token)
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if piece is None:
        return f"<{token}>"
    if "�" in text:
        known = _bytes_of_characters()
        codes = [known.get(character) for character in piece]
        if all(code is not None for code in codes):
            parts = [chr(one) if one and 32 <= one < 127 else f"<0x{one:02X}>" for one in codes]
            return "".join(parts).replace("><0x", "")
        return piece
    if piece.startswith(_WORD_START) and not text.startswith(" "):
        return f" {text}"
    return text or piece


@cache
def _bytes_of_characters() -> dict[str, int]:
    """The bytes that characters of byte-level pieces stand for (Radford et al. 2019, GPT-2)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: code for code, character in bytes_to_unicode().items()}


def in_short(model: Model, prompt: Prompt, tokens: Tokens) -> str:
    """The end of a prompt in quotes: a text as it was typed, others by their tokens."""
    whole = prompt if isinstance(prompt, str) else "".join(readable(model, tokens))
    return repr(whole if len(whole) <= _SHORT else f"…{whole[1 - _SHORT :]}")


def visible(text: str) -> str:
    """A token's text with its spaces, tabs and line ends made visible."""
    if text and (unicodedata.combining(text[0]) or text[0] in _SELECTORS):
        text = f"{_CIRCLE}{text}"
    return "".join(
        one if one.isprintable() else f"<U+{ord(one):04X}>" for one in text.translate(_VISIBLE)
    )


def with_direction_mark(text: str) -> str:
    """The text; behind Arabic or Hebrew a mark, so that what follows stands on the right."""
    leftward = any(unicodedata.bidirectional(one) in ("R", "AL") for one in text)
    return f"{text}{_LEFT_TO_RIGHT}" if leftward else text


def readable(model: Model, tokens: Sequence[int]) -> list[str]:
    """Tokens as people can read them: spaces, line ends and bytes made visible."""
    origin = model_origin(model)
    tokenizer: Any = model.tokenizer if origin is None else origin.tokenizer
    if tokenizer is None:
        return [f"<{one}>" for one in tokens]
    texts = {one: visible(token_text(tokenizer, one)) for one in set(tokens)}
    return [texts[one] for one in tokens]


_PROMPT = "a text, token ids, or turns of a chat such as [{'role': 'user', 'content': 'Hi'}]"
_TOKEN = "one token, such as ' Paris', or its id"
_SOME_POSITIONS = Annotated[Heads, ExpectedWords("a list of whole numbers", "[0, 3], or 'all'")]


def read_prompt(name: str, value: Any) -> Any:
    """Read a text, token ids or turns of a chat."""
    given = plain(value)
    if isinstance(given, str):
        return _whole_text(name, str(given))
    listed = entries(name, value, _PROMPT)
    if listed and all(isinstance(one, Mapping) for one in listed):
        return [dict(one) for one in listed]
    try:
        return [Argument(name, int, 0).read(one) for one in listed]
    except UserError:
        raise refuse(name, value, _PROMPT) from None


def read_prompts(name: str, value: Any) -> Any:
    """Read a prompt, or several texts."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return [_whole_text(name, str(one)) for one in value]
    return read_prompt(name, value)


def list_prompts(prompts: Any) -> list[Any]:
    """Several texts as they are, or one prompt in a list."""
    many = isinstance(prompts, list) and prompts and all(isinstance(p, str) for p in prompts)
    return prompts if many else [prompts]


def _whole_text(name: str, value: str) -> str:
    """Refuse half of a character (a surrogate), which no tokenizer can encode."""
    if any("\ud800" <= one <= "\udfff" for one in value):
        raise refuse(name, value, "a text of whole characters, without lone surrogates")
    return value


def read_token(name: str, value: Any) -> str | int:
    """Read the text of a token, or its id."""
    given = plain(value)
    if isinstance(given, str):
        return _whole_text(name, str(given))
    try:
        return Argument(name, int, 0).read(given)
    except UserError:
        raise refuse(name, value, _TOKEN) from None


def read_tokens(name: str, value: Any) -> list[str | int]:
    """Read one token or several."""
    if isinstance(value, (list, tuple)) and value:
        return [read_token(name, one) for one in value]
    return [read_token(name, value)]


def read_positions(name: str, value: Any) -> str | list[int]:
    """Read positions of tokens, or ``"all"``."""
    if isinstance(plain(value), str) and plain(value) == "all":
        return "all"
    return list(Argument(name, _SOME_POSITIONS).read(value))


def read_rows(name: str, value: Any) -> list[dict[str, Any]]:
    """Read prompts with their answers."""
    expected = "a list of prompts such as [{'prompt': 'Two and two is', 'answer': ' four'}]"
    listed = entries(name, value, expected)
    for one in listed:
        if not isinstance(one, Mapping):
            raise refuse(name, one, expected)
    return [dict(one) for one in listed]


AnyPrompt = Annotated[Prompt, Reads(read_prompt, "Prompt")]
Prompts = Annotated[Prompt | Sequence[Prompt], Reads(read_prompts, "Prompt | Sequence[Prompt]")]
AnyToken = Annotated[str | int, Reads(read_token, "str | int")]
SomeTokens = Annotated[
    str | int | Sequence[str | int], Reads(read_tokens, "str | int | Sequence[str | int]")
]
Positions = Annotated[Sequence[int] | str, Reads(read_positions, "Sequence[int] | str")]
Rows = Annotated[Sequence[Mapping[str, Any]], Reads(read_rows, "Sequence[Mapping[str, Any]]")]


def select_positions(
    every: Sequence[int], given: Sequence[int] | str | None, usual: Sequence[int]
) -> list[int]:
    """Those of all positions that were asked for; the usual ones if none were."""
    if given is None or isinstance(given, str):
        return list(usual if given is None else every)
    n = len(every)
    wrong = [one for one in given if not -n <= one < n]
    if wrong or not given:
        raise UserError(
            f"There is no position {wrong[0] if wrong else given}: expected some of 0 to {n - 1}."
        )
    return sorted({every[one] for one in given})


def probability(value: float) -> str:
    """A probability as people read it: two digits, and small ones as such."""
    return "< .01" if 0 < value < 0.005 else f"{value:.2f}".lstrip("0") if value < 1 else "1"


def top_tokens_text(cell: Mapping[str, Any]) -> str:
    """A cell's most likely tokens, each with its probability."""
    pairs = zip(cell["top"], cell["top_probability"], strict=True)
    return ", ".join(f"{with_direction_mark(text)} {probability(value)}" for text, value in pairs)
