"""Types of plain arguments: numbers, names and lists of them, as pydantic reads them.

NumPy and torch scalars count as plain numbers, arrays and generators as lists; neither a bool nor
a float is a whole number. Types of paths are in ``readers``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator

from layerwise.errors import unknown_name

from .readers import MOST_ENTRIES, plain_entries

# What a column of whole numbers, and every generator of random numbers, can hold.
LARGEST = 2**63 - 1


class TooManyEntries(ValueError):
    """A list of more entries than ``MOST_ENTRIES``."""


class NoEntry(ValueError):
    """A list without an entry."""


@dataclass(frozen=True)
class ExpectedWords:
    """Metadata of a type: the words of a refusal for its values."""

    words: str
    example: str = ""  # for an argument without a default


def known_name_validator(what: str, known: Collection[str]) -> AfterValidator:
    """Metadata of a type of names: only known ones are taken."""

    def read(given: str | Sequence[str]) -> str | Sequence[str]:
        for name in (given,) if isinstance(given, str) else given:
            if name not in known:
                raise unknown_name(what, name, known)
        return given

    return AfterValidator(read)


def several(*single: type) -> BeforeValidator:
    """Metadata of a list type: a value of a ``single`` type is a list of one."""

    def read(value: Any) -> tuple[Any, ...]:
        given = [value] if isinstance(value, single) else plain_entries(value)
        if given is None:
            raise ValueError("no list")
        if len(given) > MOST_ENTRIES:
            raise TooManyEntries
        return tuple(given)

    return BeforeValidator(read)


def _drop_repeats(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, given)))


def _refuse_empty(given: Sequence[str]) -> Sequence[str]:
    if not given:
        raise NoEntry
    return given


Whole = Annotated[int, Ge(-LARGEST), Le(LARGEST)]
"""A whole number that tables can hold."""
Seed = Annotated[Whole, Ge(0)]
Limit = Annotated[Whole, Ge(1), ExpectedWords("a whole number", "100 items")]
"""So many items."""
MemoryBudget = Annotated[Whole, Ge(2**20), ExpectedWords("a whole number", f"{2**30} bytes")]
# More give the ends of an interval no more exactly.
Resamples = Annotated[int, Le(100_000), ExpectedWords("a whole number of bootstrap samples")]
Names = Annotated[
    str | Sequence[str],
    several(str),
    AfterValidator(_drop_repeats),
    ExpectedWords("a text or a list of texts", "'last'"),
]
"""One name or several, or none."""
SomeNames = Annotated[Names, AfterValidator(_refuse_empty)]
"""One name or several."""
Layers = Annotated[
    Sequence[int | str], several(), ExpectedWords("a list of whole numbers", "[0, 1]")
]
"""Layers by number, or by address such as ``encoder.3``."""
Heads = Annotated[Sequence[int], several(), ExpectedWords("a list of whole numbers", "[0, 2]")]
NamedLayers = Annotated[
    Mapping[str, Annotated[Sequence[int], several()]],
    ExpectedWords("layers by the name of their group", "{'early': [0, 1]}"),
]
Method = Annotated[str, known_name_validator("method", ("engine", "reference"))]
Backend = Annotated[
    str, known_name_validator("backend", ("auto", "transformer-lens", "hugging-face"))
]
Offload = Annotated[str, ExpectedWords("a text", "'disk'")]
