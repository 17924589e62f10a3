"""What each extractor takes from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.tasks.extractors import EXTRACTORS, extractor


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("first_line", " Paris", "paris"),
        ("first_line", "\n\n New  York. \nmore", "new york"),
        ("first_line", ' "the wolf"', "the wolf"),
        ("first_line", "  \n ", None),
        ("first_line", " ...", None),
        ("first_word", " attic. To get", "attic"),
        ("first_word", "", None),
        ("integer", "13", "13"),
        ("integer", " = 1,234 coins, or 5", "1234"),
        ("integer", "-07", "-7"),
        ("integer", "\u22123", "-3"),
        ("integer", "none", None),
        ("answer_is", " 9 - 3 = 6. The answer is 6.", "6"),
        ("answer_is", "The ANSWER IS: 12 apples", "12"),
        ("answer_is", "9 - 3 = 6", None),
        ("answer_is", "The answer is", None),
        ("answer_is", "the answer is blue.", "blue"),
        ("final_number", " 2+3=<<2+3=5>>5\n#### 1,005 coins, or 6", "1005"),
        ("final_number", "So 3 and then $18.50.", "18.5"),
        ("final_number", "#### none, though 3", "3"),
        ("final_number", "It is \u22120.0", "0"),
        ("final_number", "none", None),
        ("first_number", "So $18.50, not 3.", "18.5"),
        ("first_number", "none", None),
        ("regex:answer: (\\w+)", "My answer: Paris. Or Rome", "paris"),
        ("regex:[A-D]", "I take C, or D", "c"),
        ("regex:(x)|(y)", "by y", "y"),
        ("regex:answer: (\\w+)", "Paris", None),
        ("symbols", " ) ]  }", ")]}"),
        ("symbols", ")]}\n(", ")]}"),
        ("symbols", "", None),
    ],
)
def test_extraction(name: str, text: str, answer: str | None) -> None:
    assert extractor(name)(text) == answer


@pytest.mark.parametrize("name", EXTRACTORS)
@given(text=st.text(max_size=40))
def test_any_text_gives_a_normal_answer_or_none(name: str, text: str) -> None:
    found = extractor(name)(text)
    assert found is None or found == extractor(name).normalise(found) != ""


def test_a_regular_expression_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(UserError, match="regular expression '\\(' cannot be read"):
        extractor("regex:(")


def test_unknown_extractor() -> None:
    with pytest.raises(UserError) as caught:
        extractor("first_lime")
    assert str(caught.value) == (
        "Unknown extractor 'first_lime'. Did you mean 'first_line'? Expected one of: answer_is, "
        "final_number, first_line, first_number, first_word, integer, lm-eval, named_answer, "
        "symbols."
    )
