"""Properties of every built-in suite."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from layerwise.sweep.requests import Generate, Generated
from layerwise.tasks import (
    PROTOCOLS,
    Item,
    Task,
    TaskRequest,
    load_task,
    registry,
    score,
    task_names,
)
from layerwise.tasks.extractors import extractor
from layerwise.tasks.suites import MATCHED
from tests.cases import few_by_day

NAMES = task_names()
MATCHED_NAMES = {name for sets in MATCHED.values() for names in sets.values() for name in names}
EVERY = sorted({*NAMES, *task_names("organism"), *MATCHED_NAMES})
SUMS = ("arithmetic", "sum-chain", "word-problems")
CORRUPTED = (
    "kv-words", "kv-ids", "open-book", "facts-open-book", "two-hop", "hops", "order",
    "facts", "arithmetic", "sum-chain",
)  # fmt: skip


@cache
def suite(name: str) -> Task:
    return load_task(name)


@pytest.mark.parametrize("name", EVERY)
def test_at_least_200_different_questions(name: str) -> None:
    task = suite(name)
    asked = {(item.context, item.question) for item in task.items}
    assert len(asked) == len(task.items) >= 200
    every = (*task.items, *task.fewshot)
    assert len({item.id for item in every}) == len(every)
    assert not asked & {(item.context, item.question) for item in task.fewshot}
    assert name not in NAMES or 2 <= len(task.fewshot) <= 5


@pytest.mark.parametrize("name", EVERY)
def test_choices_are_distinct_and_hold_the_answer(name: str) -> None:
    for item in (*suite(name).items, *suite(name).fewshot):
        assert len(item.choices) == (2 if name == "order" else 4)
        assert len({choice.casefold() for choice in item.choices}) == len(item.choices)
        assert item.answer in item.choices
        assert not set(item.aliases) & set(item.choices)


@pytest.mark.parametrize("name", EVERY)
def test_gold_positions_are_balanced_under_any_limit(name: str) -> None:
    task = suite(name)
    counts = [0] * len(task.items[0].choices)
    for item in task.items:
        counts[item.choices.index(item.answer)] += 1
        assert max(counts) - min(counts) <= 1
    if name in NAMES:
        shown = Counter(item.choices.index(item.answer) for item in task.fewshot)
        assert len(shown) == min(len(task.fewshot), len(task.items[0].choices))


# That all of them are the same is in the next test.
@pytest.mark.parametrize("name", few_by_day(NAMES, "kv-words", "facts", "sum-chain", "passage"))
def test_same_seed_same_task_other_seed_other_items(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # nothing is remembered
        patch.setattr(registry, "_draw_task", registry._draw_task.__wrapped__)
        again, other = load_task(name), load_task(name, seed=1)
    assert again is not suite(name)
    assert again == suite(name)
    assert again.hash == suite(name).hash != other.hash


def test_tasks_are_the_same_in_another_process() -> None:
    code = (
        "from layerwise.tasks import load_task, task_names\n"
        "print(*(load_task(name, seed=3).hash for name in task_names()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [load_task(name, seed=3).hash for name in NAMES]


@pytest.mark.parametrize(
    "name",
    ["kv-words", "kv-ids", "open-book", "facts", "facts-open-book", "two-hop", "hops", "order"],
)
def test_fewshot_answers_are_no_answers_of_items(name: str) -> None:
    task = suite(name)
    answers = {item.answer.casefold() for item in task.items}
    assert not answers & {item.answer.casefold() for item in task.fewshot}


def test_items_that_ask_for_one_fact_share_a_cluster() -> None:
    clusters = {name: {item.cluster for item in suite(name).items} for name in NAMES}
    none = ("kv-words", "kv-ids", "order", "two-hop", "hops", "brackets", "repetition", "passage")
    assert all(clusters[name] == {None} for name in none)
    assert clusters["facts"] == clusters["facts-open-book"]
    assert len(clusters["facts"]) == len(suite("facts").items)
    stories = suite("word-problems").items
    sums = {item.cluster for item in stories}
    # Several stories ask for one sum; bare sums are asked once each, and may be the same ones.
    assert len(sums) < len(stories) / 2
    assert sums & clusters["arithmetic"]
    for name in ("arithmetic", "sum-chain"):
        assert len(clusters[name]) == len(suite(name).items)


@pytest.mark.parametrize(
    "name",
    ["facts", "facts-open-book", *SUMS, "organism-facts", "organism-brackets", "wired-facts"],
)
def test_each_option_of_a_block_is_right_once(name: str) -> None:
    """So nothing that goes by the options' texts can be right more than once in four."""
    items = suite(name).items
    for start in range(0, len(items), 4):
        block = items[start : start + 4]
        (options,) = {frozenset(item.choices) for item in block}
        assert {item.answer for item in block} == options


@pytest.mark.parametrize("name", CORRUPTED)
def test_corruptions_change_the_answer_but_not_the_number_of_words(name: str) -> None:
    def text(item: Item) -> str:
        return f"{item.context or ''} {item.question}"

    same_length = 0
    for item in suite(name).items:
        change = item.corruption
        assert change is not None
        assert change.answer not in (item.answer, *item.aliases)
        assert (change.question, change.context) != (item.question, item.context)
        changed = f"{change.context or ''} {change.question}"
        same_length += len(changed.split()) == len(text(item).split())
    assert same_length / len(suite(name).items) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_has_a_chance_level_and_the_extractor_exists(name: str) -> None:
    task = suite(name)
    assert set(task.chance) == set(PROTOCOLS)
    assert all(0 < level < 1 for level in task.chance.values())
    assert task.chance["letter"] == task.chance["continuation"] == 1 / len(task.items[0].choices)
    assert extractor(task.generate.extractor).name == task.generate.extractor
    assert task.describe().startswith(f"{name} ({task.capability}; {len(task.items)} items")
    assert "\n" not in task.describe()


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_writer_is_scored_right(name: str) -> None:
    """The gold answer, written as the few-shot examples show it, counts as right."""
    task = suite(name)
    for item in (*task.items[:40], *task.fewshot):
        text = task.template.delimiter + (item.worked or item.answer) + task.template.answer_end
        cuts = [text.index(stop) for stop in task.generate.stop if stop in text]
        written = Generated((), text[: min(cuts, default=len(text))])
        asked = TaskRequest(item.id, name, "generate", "", None, True, Generate((0,), 1))
        assert score(task, item, "generate", (asked,), (written,)).correct
