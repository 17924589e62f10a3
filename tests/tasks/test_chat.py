"""Answers that chat models give in sentences, and that nothing is gained by naming many."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.sweep.requests import Generated
from layerwise.tasks import GenerateSpec, Item, Task, build_requests, load_task, score
from layerwise.tasks.task import for_chat

from .small import FRANCE, small_task
from .tokenizers import with_chat


def named_answer_task(*items: Item) -> Task:
    return small_task(items=items, generate=GenerateSpec((), 40, "named_answer"))


def score_text(task: Task, item: Item, text: str) -> tuple[bool, str | None]:
    requests = build_requests(task, item, "generate", with_chat(), chat=True)
    scored = score(task, item, "generate", requests, [Generated((), text)])
    return scored.correct, scored.extracted


COLD = Item("cold", "The opposite of hot is", "cold")
HOT = Item("hot", "The opposite of cold is", "hot")
TALL = Item("tall", "Who is taller, Anna or Ben?", "Anna", ("Anna", "Ben"))
MEXICO = Item("mexico", "Its capital is", "Mexico City", aliases=("Ciudad de México",))
NEGATIVE = Item("negative", "2 - 5 =", "-3")
THREE = Item("three", "5 - 2 =", "3")
CHINA = Item("china", "\u4e2d\u56fd\u7684\u9996\u90fd\u662f", "\u5317\u4eac")
YES = Item("yes", "Is the sky blue?", "yes")
NO = Item("no", "Is the sky green?", "no")


@pytest.mark.parametrize(
    ("items", "text", "right", "extracted"),
    [
        ((FRANCE,), "The capital of France is **Paris**.", True, "paris"),
        ((FRANCE,), "Sure!\n\nIt is Paris, not Rome.", True, "paris"),
        ((FRANCE,), "Rome, Paris, Madrid", False, "rome"),
        ((FRANCE,), "Parisians know.", False, None),
        ((COLD, HOT), "The opposite of hot is cold.", True, "cold"),
        ((TALL,), "Anna is taller than Ben.", True, "anna"),
        ((TALL,), "Ben, and Anna", False, "ben"),
        ((MEXICO,), "It is Mexico City.", True, "mexico city"),
        ((MEXICO,), "Ciudad de M\u00e9xico!", True, "ciudad de m\u00e9xico"),
        ((NEGATIVE, THREE), "2 - 5 = \u22123", True, "-3"),
        ((THREE, NEGATIVE), "5-2 is 3.", True, "3"),
        ((THREE,), "It is 3.5, or 1,003.", False, None),
        ((CHINA,), "\u662f\u5317\u4eac\u5e02\u3002", True, "\u5317\u4eac"),
        ((YES, NO), "Yes, it is. No doubt.", True, "yes"),
        ((YES, NO), "Nobody knows", False, None),
    ],
)
def test_the_answer_is_the_first_that_is_named(items, text, right, extracted):
    assert score_text(named_answer_task(*items), items[0], text) == (right, extracted)


@pytest.mark.long
def test_a_text_that_names_every_answer_is_right_no_more_often_than_a_guess() -> None:
    task = for_chat(load_task("facts"))
    every = sorted({item.answer for item in task.items})
    rng = np.random.default_rng(0)
    for _ in range(3):
        text = ", ".join(every[place] for place in rng.permutation(len(every)).tolist())
        right = [score_text(task, item, text)[0] for item in task.items]
        assert np.mean(right) <= task.chance["generate"]


@pytest.mark.parametrize(
    ("suite", "extractor"),
    [("facts", "named_answer"), ("kv-words", "named_answer"), ("arithmetic", "final_number")],
)
def test_chat_takes_answers_from_sentences(suite: str, extractor: str) -> None:
    task = load_task(suite)
    chat = for_chat(task)
    assert (chat.generate.extractor, chat.generate.stop) == (extractor, ())
    assert chat.generate.max_tokens == task.generate.max_tokens + 32
    assert for_chat(chat) == chat


def test_extractors_that_read_long_texts_and_judges_stay() -> None:
    worked, judged = load_task("word-problems"), small_task(judge=lambda item, text: (True, text))
    assert (for_chat(worked), for_chat(judged)) == (worked, judged)
