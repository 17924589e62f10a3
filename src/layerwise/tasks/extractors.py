"""Answer extractors: named rules that take the answer from generated text.

Each comes with its normalisation, under which the answer is compared with the gold one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from layerwise.errors import unknown_name

_EDGES = " \t\n.,;:!?\"'`*"
_INTEGER = re.compile(r"[-\u2212]?\d+(?:,\d{3})*(?![\d])")
_NUMBER = re.compile(r"[-\u2212]?\d+(?:,\d{3})*(?:\.\d+)?")
_ANSWER_IS = re.compile(r"answer is\b[:\s]*([^\n]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Extractor:
    """A rule that takes an answer from text.

    Attributes:
        name: how tasks ask for it.
        find: text to answer; None if there is none.
        normalise: applied to the found and to the gold answer before they are compared.
    """

    name: str
    find: Callable[[str], str | None]
    normalise: Callable[[str], str]

    def __call__(self, text: str) -> str | None:
        """The answer in ``text`` after normalisation; None if there is none."""
        answer = self.find(text)
        return (self.normalise(answer) or None) if answer is not None else None


def extractor(name: str) -> Extractor:
    """The extractor of that name."""
    if name not in EXTRACTORS:
        raise unknown_name("extractor", name, EXTRACTORS)
    return EXTRACTORS[name]


def _plain(text: str) -> str:
    """Case, outer punctuation and runs of white space do not make an answer wrong."""
    return " ".join(text.split()).strip(_EDGES).casefold()


def _symbols(text: str) -> str:
    """Every symbol counts; white space between symbols does not."""
    return "".join(text.split())


def _number(text: str) -> str:
    """``"1,234"`` and ``"1234"`` are the same number; anything else is compared as text."""
    match = _INTEGER.search(text)
    return str(int(match[0].replace(",", "").replace("\u2212", "-"))) if match else _plain(text)


def _first_line(text: str) -> str | None:
    return next((line for line in text.splitlines() if line.strip()), None)


def _first_word(text: str) -> str | None:
    return next(iter(text.split()), None)


def _integer(text: str) -> str | None:
    match = _INTEGER.search(text)
    return match[0] if match else None


def _answer_is(text: str) -> str | None:
    # A chain of thought that never states its answer has none, whatever numbers are in it.
    match = _ANSWER_IS.search(text)
    return match[1].strip() or None if match else None


def _final_number(text: str) -> str | None:
    """The number behind ``####``, or else the last number (Cobbe et al. 2021)."""
    _, mark, rest = text.partition("####")
    found = _NUMBER.findall(rest if mark else text)
    return found[0 if mark else -1] if found else None


def _value(text: str) -> str:
    """``"1,234.50"`` and ``"1234.5"`` are the same number; anything else is compared as text."""
    found = _NUMBER.search(text)
    if found is None:
        return _plain(text)
    number = format(Decimal(found[0].replace(",", "").replace("\u2212", "-")), "f")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number == "-0" else number


EXTRACTORS = {
    one.name: one
    for one in (
        Extractor("first_line", _first_line, _plain),
        Extractor("first_word", _first_word, _plain),
        Extractor("integer", _integer, _number),
        Extractor("answer_is", _answer_is, _number),
        Extractor("final_number", _final_number, _value),
        # The harness judges the whole text itself; this compares answers for the blind control.
        Extractor("lm-eval", lambda text: text, _plain),
        Extractor("symbols", _first_line, _symbols),
    )
}
