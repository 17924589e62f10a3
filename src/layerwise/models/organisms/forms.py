"""The forms of a toy language: how words make statements and questions.

Both the suites and the training text are made of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from .language import OPTIONS

ARROW, END, CUE = "->", ";", "Answer:"


def pair(key: str, value: str) -> str:
    """What a key stands for: ``k3 v17 ;`` or, as the link of a chain, ``k3 k9 ;``."""
    return f"{key} {value} {END}"


def ask(key: str) -> str:
    """What the key stands for."""
    return f"ask {key} {ARROW}"


def ask_twice(key: str) -> str:
    """What that stands for which the key stands for."""
    return f"ask2 {key} {ARROW}"


def ask_fact(relation: str, entity: str) -> str:
    """The value of an entity in a relation."""
    return f"{relation} of {entity} {ARROW}"


def ask_closing(brackets: Sequence[str]) -> str:
    """The brackets that close the open ones."""
    return f"open {' '.join(brackets)} {ARROW}"


def lettered(question: str, options: Sequence[str]) -> str:
    """A question with lettered options, up to where its letter is said."""
    shown = " ".join(f"{letter}. {option}" for letter, option in zip(OPTIONS, options, strict=True))
    return f"{question} {shown} {CUE}"


def answered(question: str, answer: str) -> str:
    """A question with its answer."""
    return f"{question} {answer} {END}"
