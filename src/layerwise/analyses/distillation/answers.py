"""The teacher's own answers to questions that a student is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.runs.setup import Setup
from layerwise.sweep import Generate, Generated, Scored, intact
from layerwise.sweep.requests import Outcome

from .lessons import Lesson, Question, lesson_of


def teacher_answers(
    teacher: Setup, student: Setup, questions: Sequence[Question]
) -> dict[int, Lesson]:
    """The teacher's answers: the option that it finds most likely, or what it writes, greedily."""
    asked = [one.request for question in questions for one in question.requests]
    (outcomes,) = teacher.sweep([intact()], asked).outcomes
    each, found = iter(outcomes), dict[int, Lesson]()
    for place, question in enumerate(questions):
        lesson = _answer(student, question, [next(each) for _ in question.requests])
        if lesson is not None:
            found[place] = lesson
    return found


def _answer(setup: Setup, question: Question, outcomes: Sequence[Outcome]) -> Lesson | None:
    if question.protocol == "generate":
        (outcome,), (asked,) = outcomes, question.requests
        assert isinstance(outcome, Generated)
        assert isinstance(asked.request, Generate)
        ended = len(outcome.tokens) < asked.request.max_tokens and not any(
            stop in setup.tokenizer.decode(outcome.tokens) for stop in asked.request.stop
        )
        read, said = asked.request.context, outcome.tokens
        return lesson_of(setup, question, read, said, end=ended) if said or ended else None
    options = [
        (outcome.logprob, one.request)
        for outcome, one in zip(outcomes, question.requests, strict=True)
        if isinstance(outcome, Scored) and not isinstance(one.request, Generate)
    ]
    _, best = max(options, key=lambda option: option[0])
    return lesson_of(setup, question, best.context, best.continuation, end=False)
