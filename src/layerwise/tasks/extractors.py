"""Answer extractors: named rules that take the answer from generated text.

Each comes with its normalisation, under which the answer is compared with the gold one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial

from layerwise.errors import UserError, count_noun, one_line, short_repr, unknown_name
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError

_EDGES = " \t\n.,;:!?\"'`*"
_INTEGER = re.compile(r"[-\u2212]?\d+(?:,\d{3})*(?![\d])")
_NUMBER = re.compile(r"[-\u2212]?\d+(?:,\d{3})*(?:\.\d+)?")
# A number is one word with its sign; so is each character of scripts without spaces.
_WORDS = re.compile(
    r"(?:(?<![\w)])-)?\d+(?:[.,]\d+)*(?!\w)|[\u2e80-\u9fff\uac00-\ud7af]|\w+|[^\w\s]"
)
_ANSWER_IS = re.compile(r"answer is\b[:\s]*([^\n]*)", re.IGNORECASE)


NAMED = "named_answer"
REGEX = "regex:"
Words = tuple[str, ...]


@dataclass(frozen=True)
class Extractor:
    """A rule that takes an answer from text."""

    name: str  # how tasks ask for it
    find: Callable[[str], str | None]  # text to answer; None if there is none
    # Applied to the found and to the gold answer before they are compared.
    normalise: Callable[[str], str]

    def __call__(self, text: str) -> str | None:
        """The answer in ``text`` after normalisation; None if there is none."""
        answer = self.find(text)
        return (self.normalise(answer) or None) if answer is not None else None


def extractor(name: str) -> Extractor:
    """The extractor of that name, or of a regular expression: ``regex:PATTERN``."""
    if name.startswith(REGEX):
        return Extractor(name, _first_match(name.removeprefix(REGEX)), plain)
    if name not in EXTRACTORS:
        raise unknown_name("extractor", name, EXTRACTORS)
    return EXTRACTORS[name]


def plain(text: str) -> str:
    """Case, outer punctuation and runs of white space do not make an answer wrong."""
    return " ".join(text.split()).strip(_EDGES).casefold()


def split_words(text: str) -> Words:
    """The words, numbers and marks of a text, whatever their case."""
    return tuple(_WORDS.findall(text.replace("\u2212", "-").casefold()))


def named_answer(known: Mapping[Words, str], question: str, text: str) -> str | None:
    """The first of some answers that a text names in whole words; None if it names none."""
    # Answers in the question count only where the text names no other, for who answers in a
    # sentence repeats it. Which one is right is not known here: to name many gains nothing.
    repeated = set(_named_answers(known, question))
    named = list(_named_answers(known, text))
    return next((name for name in named if name not in repeated), next(iter(named), None))


def _named_answers(known: Mapping[Words, str], text: str) -> Iterator[str]:
    """The answers in a text, in its order; of those that begin at one word the longest."""
    words, longest, start = split_words(text), max(map(len, known), default=0), 0
    while start < len(words):
        ends = range(min(len(words), start + longest), start, -1)
        end = next((end for end in ends if words[start:end] in known), None)
        if end is not None:
            yield known[words[start:end]]
        start = end or start + 1


def _symbols(text: str) -> str:
    """Every symbol counts; white space between symbols does not."""
    return "".join(text.split())


def _number(text: str) -> str:
    """``"1,234"`` and ``"1234"`` are the same number; anything else is compared as text."""
    match = _INTEGER.search(text)
    return _value(match[0]) if match else plain(text)


def _first(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    """Takes what a pattern matches first: its first group that took part, or all."""

    def find(text: str) -> str | None:
        match = pattern.search(text)
        if match is None:
            return None
        return next((group for group in match.groups() if group is not None), match[0])

    return find


def _first_line(text: str) -> str | None:
    return next((line for line in text.splitlines() if line.strip()), None)


@lru_cache(maxsize=64)
def _first_match(pattern: str) -> Callable[[str], str | None]:
    _search(pattern, "")  # which refuses what is no pattern
    return partial(_search, pattern)


_SEARCHES = LimitedProcess("search_pattern")


def _search(pattern: str, text: str) -> str | None:
    """First match of a pattern, in a process with limits, for it may backtrack for ever."""
    told = f"The extractor's regular expression {short_repr(pattern)}"
    try:
        return _SEARCHES.ask({"pattern": pattern, "text": text}, len(text))
    except JobError as error:
        reason = one_line(error).partition(": ")[2]
        raise UserError(
            f"{told} cannot be read ({reason}); expected one of Python's, such as "
            "regex:answer: (\\w+)."
        ) from error
    except OverLimitError as limit:
        raise UserError(
            f"{told} needs more than {limit} for {count_noun(len(text), 'character')}; "
            f"expected one "
            "that matches quickly; repeat nothing that repeats something."
        ) from limit


def _answer_is(text: str) -> str | None:
    # A chain of thought that never states its answer has none, whatever numbers are in it.
    match = _ANSWER_IS.search(text)
    return match[1].strip() or None if match else None


def _final_number(text: str) -> str | None:
    """The number behind ``####``, or else the last number (Cobbe et al. 2021)."""
    _, mark, rest = text.partition("####")
    numbers = _NUMBER.findall(rest if mark else text)
    return numbers[0 if mark else -1] if numbers else None


def _value(text: str) -> str:
    """``"1,234.50"`` and ``"1234.5"`` are the same number; anything else is compared as text."""
    match = _NUMBER.search(text)
    if match is None:
        return plain(text)
    number = format(Decimal(match[0].replace(",", "").replace("\u2212", "-")), "f")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number == "-0" else number


EXTRACTORS = {
    extractor.name: extractor
    for extractor in (
        Extractor("first_line", _first_line, plain),
        Extractor("first_word", _first(re.compile(r"\S+")), plain),
        Extractor("integer", _first(_INTEGER), _number),
        Extractor("first_number", _first(_NUMBER), _value),
        Extractor("answer_is", _answer_is, _number),
        Extractor("final_number", _final_number, _value),
        # The harness judges the whole text itself; this compares answers for the blind control.
        Extractor("lm-eval", lambda text: text, plain),
        # ``scoring`` looks for a task's answers before; of anything else the first line counts.
        Extractor(NAMED, _first_line, plain),
        Extractor("symbols", _first_line, _symbols),
    )
}
