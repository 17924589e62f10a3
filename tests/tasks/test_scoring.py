"""Scores against values worked out by hand, and what each extractor takes from text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import UserError
from layerwise.sweep.requests import Scored
from layerwise.tasks import Score, build_requests, score
from layerwise.tasks.extractors import EXTRACTORS, extractor

from .small import FRANCE, small_task
from .tokenizers import byte_level

TASK = small_task()
ASKED = {
    protocol: build_requests(TASK, FRANCE, protocol, byte_level())
    for protocol in ("letter", "continuation", "generate")
}


def scored_outcomes(*logprobs: tuple[float, ...]) -> list[Scored]:
    return [Scored(one, (False,) * len(one)) for one in logprobs]


def test_continuation_by_hand() -> None:
    outcomes = scored_outcomes((-1.0, -1.5), (-1.0, -0.5, -1.5), (-4.5,))
    result = score(TASK, FRANCE, "continuation", ASKED["continuation"], outcomes)
    # Rome -2.5 (/4), Paris -3 (/5), Madrid -4.5 (/6): sums and per-character values disagree.
    assert result == Score(
        correct=False,
        correct_norm=True,
        gold_logprob=-3.0,
        margin=-0.5,
        early_logprob=-1.0,
        late_logprob=-1.0,
        chosen=0,
        correct_first=False,
        correct_forced=False,
    )


def test_letter_by_hand() -> None:
    outcomes = scored_outcomes((-2.0,), (-0.5,), (-1.75,))
    result = score(TASK, FRANCE, "letter", ASKED["letter"], outcomes)
    assert result == Score(
        correct=True, correct_norm=True, gold_logprob=-0.5, margin=1.25, chosen=1,
        correct_first=False, correct_forced=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("greedy", "first", "forced"),
    [((True, True, True), True, True), ((True, False, True), True, False),
     ((False, True, True), False, False)],
)  # fmt: skip
def test_the_gold_options_tokens_are_judged_one_by_one(greedy, first, forced) -> None:
    outcomes = [
        Scored((-1.0, -1.5), (True, True)),
        Scored((-1.0, -0.5, -1.5), greedy),
        Scored((-4.5,), (True,)),
    ]
    result = score(TASK, FRANCE, "continuation", ASKED["continuation"], outcomes)
    assert (result.correct_first, result.correct_forced) == (first, forced)


def test_outcomes_must_answer_the_requests() -> None:
    with pytest.raises(ValueError, match="Expected 3 outcomes of type Scored"):
        score(TASK, FRANCE, "letter", ASKED["letter"], scored_outcomes((-1.0,)))
    with pytest.raises(ValueError, match="Expected 1 outcomes of type Generated"):
        score(TASK, FRANCE, "generate", ASKED["generate"], scored_outcomes((-1.0,)))


logprobs = st.lists(st.floats(-50, 0), min_size=1, max_size=9).map(tuple)


@given(st.tuples(logprobs, logprobs, logprobs))
def test_scores_are_those_of_argmax(options: tuple[tuple[float, ...], ...]) -> None:
    result = score(TASK, FRANCE, "continuation", ASKED["continuation"], scored_outcomes(*options))
    sums = np.array([sum(option) for option in options])
    lengths = np.array([len(choice) for choice in FRANCE.choices])
    assert result.correct == (np.argmax(sums) == 1)
    assert result.correct_norm == (np.argmax(sums / lengths) == 1)
    assert result.margin is not None
    assert result.margin == sums[1] - max(sums[0], sums[2])
    assert not result.correct or result.margin >= 0


@given(logprobs)
def test_early_and_late_make_up_the_whole(gold: tuple[float, ...]) -> None:
    result = score(
        TASK, FRANCE, "continuation", ASKED["continuation"], scored_outcomes((-1.0,), gold, (-1.0,))
    )
    if len(gold) == 1:
        assert result.early_logprob is result.late_logprob is None
    else:
        assert result.early_logprob is not None
        assert result.late_logprob is not None
        half = len(gold) // 2
        whole = result.early_logprob * half + result.late_logprob * (len(gold) - half)
        assert math.isclose(whole, sum(gold), abs_tol=1e-9)


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
