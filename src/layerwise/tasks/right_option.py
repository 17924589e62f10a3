"""Right option of an item: one reader of answers for all sources of tasks, and numbers as texts.

An answer names an option by its text, its label or its place. Nothing is guessed where it could
name two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, get_args

from layerwise.errors import short_repr

Reading = Literal["text", "label", "place"]
READINGS: tuple[Reading, ...] = get_args(Reading)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Tables of other programs write places with a point where a row of the column is empty.
_PLACE = re.compile(r"(\d{1,9})(?:\.0*)?", re.ASCII)


class WrittenNumber(float):
    """A number of a file that remembers its digits, such as ``2.50``."""

    digits: str

    def __new__(cls, digits: str) -> WrittenNumber:
        """Read the digits of a number, as a JSON file has them."""
        number = super().__new__(cls, digits)
        number.digits = digits
        return number

    def __repr__(self) -> str:
        return self.digits

    def __reduce__(self) -> tuple[type[WrittenNumber], tuple[str]]:
        return WrittenNumber, (self.digits,)


def plain_text(value: object) -> str:
    """A text, or a number or truth value as a text, with the digits that its file has.

    Raises:
        ValueError: anything else, or a number that is not finite; says what was expected.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        digits = repr(value)
        power = "e" in digits.lower()
        if not math.isfinite(value) or (power and value == 0):
            raise ValueError(
                f"{short_repr(value)}, too large, too small or no number; expected another"
            )
        # What compares numbers does not know powers of ten.
        return f"{Decimal(digits):f}" if power else digits
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, (bool, int)):
        return str(value)
    raise ValueError(f"{short_repr(value)}; expected a text or a number")


def option_places(
    answer: object, options: Sequence[str], labels: Sequence[str] = LETTERS
) -> dict[Reading, int]:
    """The place from 0 of the option that an answer names, by each way in which it can be read.

    Args:
        answer: a text, or a number or truth value, which is read as the text that it is written as.
        options: the texts of the options.
        labels: what the options are called, in their order; letters if the data have none.

    Raises:
        ValueError: an answer of another type, or a number that is not finite.
    """
    text = plain_text(answer).strip()
    named = {"text": [option.strip() for option in options], "label": labels[: len(options)]}
    places: dict[Reading, int] = {
        reading: list(named[reading]).index(text)
        for reading in ("text", "label")
        if named[reading].count(text) == 1
    }
    match = _PLACE.fullmatch(text)
    if match and int(match[1]) < len(options):
        places["place"] = int(match[1])
    return places


def right_option(
    answer: object,
    options: Sequence[str],
    labels: Sequence[str] = LETTERS,
    readings: Sequence[Reading] = READINGS,
) -> int:
    """The place from 0 of the one option that an answer names.

    Args:
        answer: as for ``option_places``.
        options: as for ``option_places``.
        labels: as for ``option_places``.
        readings: in which ways the source writes its answers.

    Raises:
        ValueError: the answer names no option, or two of them; says which.

    Example:
        >>> right_option("B", ["Rhine", "Danube"])
        1
        >>> right_option("2", ["1", "2", "3"])
        Traceback (most recent call last):
        ...
        ValueError: '2', the text of option 2 and the place of option 3; expected one option
    """
    places = option_places(answer, options, labels)
    read: dict[Reading, int] = {
        reading: places[reading] for reading in readings if reading in places
    }
    if not read:
        expected = " or ".join(f"the {_NOUNS[reading]}" for reading in readings)
        raise ValueError(f"{short_repr(answer)}; expected {expected} of one option")
    if len(set(read.values())) > 1:
        raise ValueError(f"{short_repr(answer)}, {in_words(read)}; expected one option")
    return next(iter(read.values()))


_NOUNS: dict[Reading, str] = {"text": "text", "label": "label", "place": "place from 0"}


def in_words(places: Mapping[Reading, int]) -> str:
    """Names of an answer's options, such as ``the text of option 2 and the place of option 3``."""
    return " and ".join(f"the {name} of option {at + 1}" for name, at in places.items())


def fitting_readings(rows: Sequence[Mapping[Reading, int]]) -> tuple[set[Reading], int]:
    """The ways to read answers that fit all rows; if none does, the first row that fits none.

    Args:
        rows: what ``option_places`` says of each row.

    Returns:
        The readings, and the place of a row: where no reading is left, or else the first that they
        read as different options; the number of rows if there is none.
    """
    fitting: set[Reading] = set(READINGS)
    for at, places in enumerate(rows):
        fitting &= places.keys()
        if not fitting:
            return fitting, at
    differing = (at for at, places in enumerate(rows) if len({places[one] for one in fitting}) > 1)
    return fitting, next(differing, len(rows))
