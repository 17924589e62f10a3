"""What an organism is trained on: true, and never what is kept for tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from analyses.organism_training.plan import FORMS, N_LAYERS
from analyses.organism_training.seq2seq.plan import FORMS as SEQ2SEQ_FORMS
from analyses.organism_training.texts import Text, Texts
from analyses.organism_training.training_forms import FEWEST_PAIRS, MOST_PAIRS
from layerwise.models.organisms import ORGANISM

CLOSING = dict(ORGANISM.brackets)
BY_NAME = {
    **{form.capability: form for form in FORMS},
    **{f"{form.capability} of the encoder-decoder": form for form in SEQ2SEQ_FORMS},
}


@cache
def drawn(name: str) -> tuple[Text, ...]:
    texts = Texts(ORGANISM, np.random.default_rng(0))
    form = BY_NAME[name]
    n_steps = 400 // form.rows
    return tuple(text for _ in range(n_steps) for text in form.draw(texts, MOST_PAIRS))


def pairs_of(words: list[str]) -> list[tuple[str, str]]:
    """The pairs that the context states, which is all before the first question."""
    asked = next((i for i, word in enumerate(words) if word in ("ask", "ask2")), 1)
    return [(words[i], words[i + 1]) for i in range(1, asked, 3)]


def question_before(words: list[str], arrow: int) -> list[str]:
    start = max(i for i in range(arrow) if words[i] in (*ORGANISM.relations, "ask", "ask2", "open"))
    return words[start:arrow]


def true_answer(words: list[str], question: list[str]) -> list[str]:
    known = dict(pairs_of(words))
    if question[0] == "ask":
        return [known[question[1]]]
    if question[0] == "ask2":
        return [known[known[question[1]]]]
    if question[0] == "open":
        return [CLOSING[one] for one in reversed(question[1:])]
    return [ORGANISM.facts[question[0], question[2]]]


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_predicted_is_true(name: str) -> None:
    for text in drawn(name):
        arrows = [i for i, word in enumerate(text.words) if word == "->"]
        predicted = {(t.place, t.stage): t.word for t in text.targets}
        assert len(predicted) == len(text.targets)
        for arrow in arrows:
            question = question_before(text.words, arrow)
            answer = true_answer(text.words, question)
            if question[0] == "ask2":
                assert predicted[arrow, "middle"] == dict(pairs_of(text.words))[question[1]]
            assert text.words[arrow + 1 : arrow + 2 + len(answer)] == [*answer, ";"]
            places = range(arrow, arrow + len(answer) + 1)
            assert [predicted[place, "answer"] for place in places] == [*answer, ";"]


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_shown_that_is_kept_for_tests(name: str) -> None:
    for text in drawn(name):
        before: list[str] = []
        stated = pairs_of(text.words) if name.startswith(("retrieval", "reasoning")) else []
        assert not any(ORGANISM.for_tests(*pair) for pair in stated)
        for arrow in [i for i, word in enumerate(text.words) if word == "->"]:
            question = question_before(text.words, arrow)
            if question[0] == "open":
                assert not ORGANISM.for_tests(*question[1:])
            if question[0] in ORGANISM.relations:
                fact = [question[0], question[2]]
                assert not before or not ORGANISM.for_tests(*before, *fact)
                before = fact


@pytest.mark.parametrize("name", BY_NAME)
def test_texts_of_a_step_are_equally_long_and_known(name: str) -> None:
    texts = Texts(ORGANISM, np.random.default_rng(1))
    form = BY_NAME[name]
    for most in (FEWEST_PAIRS, MOST_PAIRS):
        step = form.draw(texts, most)
        assert len(step) == form.rows
        assert len({len(text.words) for text in step}) == 1
        assert {word for text in step for word in text.words} <= set(ORGANISM.words)


def test_what_a_form_needs_is_planted_before_it_is_read() -> None:
    for form in FORMS:
        assert max(form.reads.values()) == max(form.needs) < N_LAYERS
        assert set(form.reads.values()) <= set(form.needs)
