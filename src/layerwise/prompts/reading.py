"""Arguments of the functions of a prompt, and numbers as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerwise.errors import UserError
from layerwise.ground.readers import entries, numbers, plain, refuse, whole

from .texts import closed

_PROMPT = "a text, token ids, or turns of a chat such as [{'role': 'user', 'content': 'Hi'}]"
_TOKEN = "one token, such as ' Paris', or its id"


def prompt(name: str, value: Any) -> Any:
    """Read a text, token ids or turns of a chat."""
    given = plain(value)
    if isinstance(given, str):
        return _whole_text(name, str(given))
    listed = list(entries(name, value, _PROMPT))
    if listed and all(isinstance(one, Mapping) for one in listed):
        return [dict(one) for one in listed]
    try:
        return [whole(0)(name, one) for one in listed]
    except UserError:
        raise refuse(name, value, _PROMPT) from None


def prompts(name: str, value: Any) -> Any:
    """Read a prompt, or several texts."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return [_whole_text(name, str(one)) for one in value]
    return prompt(name, value)


def _whole_text(name: str, value: str) -> str:
    """Refuse half of a character (a surrogate), which no tokenizer can encode."""
    if any("\ud800" <= one <= "\udfff" for one in value):
        raise refuse(name, value, "a text of whole characters, without lone surrogates")
    return value


def token(name: str, value: Any) -> str | int:
    """Read the text of a token, or its id."""
    given = plain(value)
    if isinstance(given, str):
        return _whole_text(name, str(given))
    try:
        return whole(0)(name, given)
    except UserError:
        raise refuse(name, value, _TOKEN) from None


def tokens(name: str, value: Any) -> list[str | int]:
    """Read one token or several."""
    if isinstance(value, (list, tuple)) and value:
        return [token(name, one) for one in value]
    return [token(name, value)]


def positions(name: str, value: Any) -> str | list[int]:
    """Read positions of tokens, or ``"all"``."""
    if isinstance(plain(value), str) and plain(value) == "all":
        return "all"
    return [int(one) for one in numbers("[0, 3], or 'all'")(name, value)]


def positions_of(
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


def new_tokens(name: str, value: Any) -> int:
    """Read a number of tokens to write, none or more."""
    number = whole(10)(name, value)
    if number < 0:
        raise refuse(name, value, "0 or more new tokens, such as 10")
    return number


def rows(name: str, value: Any) -> list[dict[str, Any]]:
    """Read prompts with their answers."""
    expected = "a list of prompts such as [{'prompt': 'Two and two is', 'answer': ' four'}]"
    listed = list(entries(name, value, expected))
    for one in listed:
        if not isinstance(one, Mapping):
            raise refuse(name, one, expected)
    return [dict(one) for one in listed]


def probability(value: float) -> str:
    """A probability as people read it: two digits, and small ones as such."""
    return "< .01" if 0 < value < 0.005 else f"{value:.2f}".lstrip("0") if value < 1 else "1"


def most_likely(cell: Mapping[str, Any]) -> str:
    """A cell's most likely tokens, each with its probability."""
    pairs = zip(cell["top"], cell["top_probability"], strict=True)
    return ", ".join(f"{closed(text)} {probability(value)}" for text, value in pairs)
