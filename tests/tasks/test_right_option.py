"""Options that answers name, and numbers as texts: all forms, and what is refused."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest

from layerwise.tasks.right_option import (
    READINGS,
    WrittenNumber,
    fitting_readings,
    option_places,
    plain_text,
    right_option,
)

RIVERS = ["Rhine", "Danube", "Seine"]


@pytest.mark.parametrize("answer", [" Danube ", "B", "1", 1, 1.0, "1.0", WrittenNumber("1.00")])
def test_an_answer_names_an_option_by_text_label_or_place(answer):
    assert right_option(answer, RIVERS) == 1


@pytest.mark.parametrize(
    "answer",
    ["", "BC", "b", "D", "3", 3, -1, "-1", 1.5, True, False, "Danube, Seine", "\u0661", "1e0"],
)
def test_an_answer_that_names_no_option_is_refused(answer):
    with pytest.raises(ValueError, match="expected the text or the label or the place from 0 of"):
        right_option(answer, RIVERS)


@pytest.mark.parametrize("answer", [None, [], ["B"], {}, float("nan"), float("inf"), b"B"])
def test_an_answer_of_another_type_is_refused(answer):
    with pytest.raises(ValueError, match="; expected a"):
        right_option(answer, RIVERS)


def test_an_answer_that_may_name_two_options_is_refused_unless_one_reading_is_given():
    options = ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match="'2', the text of option 2 and the place of option 3"):
        right_option("2", options)
    assert [right_option("2", options, readings=(one,)) for one in ("text", "place")] == [1, 2]
    assert right_option("0", ["0", "1"]) == 0
    with pytest.raises(ValueError, match="the text of option 2 and the label of option 1"):
        right_option("A", ["B", "A"])


def test_an_option_or_a_label_that_stands_twice_is_named_by_nothing():
    assert option_places("a", ["a", "a "]) == {}
    assert option_places("x", RIVERS, ["x", "x", "y"]) == {}
    assert option_places("z", RIVERS, ["x", "y"]) == {}


def test_the_readings_that_fit_all_rows():
    digits = option_places("2", ["1", "2", "3"])
    assert fitting_readings([digits]) == ({"text", "place"}, 0)
    assert fitting_readings([digits, option_places("0", RIVERS)]) == ({"place"}, 2)
    assert fitting_readings([option_places("1", RIVERS), option_places("A", RIVERS)]) == (set(), 1)
    assert fitting_readings([]) == (set(READINGS), 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2.50", "2.50"), (1234567, "1234567"), (0.1, "0.1"), (WrittenNumber("2.50"), "2.50"),
        (Decimal("2.50"), "2.50"), (10**400, "1" + "0" * 400), (1e22, "1" + "0" * 22),
        (1e-7, "0.0000001"), (WrittenNumber("1.5E3"), "1500"), (-0.0, "-0.0"), (True, "True"),
        (WrittenNumber("22090603.0"), "22090603.0"), (Decimal("1E+3"), "1000"),
    ],
)  # fmt: skip
def test_a_number_keeps_its_digits(value: Any, text: str):
    assert plain_text(value) == text


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), WrittenNumber("1e999"), WrittenNumber("1e-999"),
     Decimal("NaN"), Decimal("Infinity"), None, [1], {}],
)  # fmt: skip
def test_what_is_no_finite_number_is_refused(value: Any):
    with pytest.raises(ValueError, match="; expected a"):
        plain_text(value)


def test_a_written_number_is_a_number_that_travels():
    number = pickle.loads(pickle.dumps(WrittenNumber("2.50")))
    assert (number, repr(number), number + 1) == (2.5, "2.50", 3.5)
