"""Names of tasks, and what they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerwise.errors import UserError
from layerwise.tasks import (
    Task,
    expand_task_names,
    languages,
    load_task,
    register_source,
    register_suite,
    registry,
    task_names,
)

from .small import small_task


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_suites", dict(registry._suites))
    monkeypatch.setattr(registry, "_sources", list(registry._sources))


def test_names_go_by_capability() -> None:
    assert task_names() == [
        "kv-words",
        "kv-ids",
        "open-book",
        "facts-open-book",
        "facts",
        "arithmetic",
        "sum-chain",
        "order",
        "two-hop",
        "hops",
        "word-problems",
        "brackets",
        "repetition",
        "passage",
    ]


def test_capabilities_and_all_stand_for_suites() -> None:
    assert expand_task_names(["knowledge"]) == ["facts"]
    assert expand_task_names(["all"]) == task_names()
    some = expand_task_names(["coherence", "facts", "coherence"])
    assert some == ["brackets", "repetition", "passage", "facts"]
    assert expand_task_names(iter(["facts"])) == ["facts"]


def test_names_stand_for_the_suites_of_the_models_own_language() -> None:
    own = ["organism-lookup", "organism-facts", "organism-two-hop", "organism-brackets"]
    wired = ["wired-lookup", "wired-facts", "wired-two-hop"]
    assert languages() == ["text", "organism", "letters", "wired"]
    assert expand_task_names(["all"], "letters") == ["letters-lookup", "letters-facts"]
    assert expand_task_names(["all"], "wired") == wired
    assert expand_task_names(["all"], "organism") == task_names("organism") == own
    assert expand_task_names(["reasoning", "facts"], "organism") == ["organism-two-hop", "facts"]
    assert expand_task_names(["organism-facts"]) == ["organism-facts"]


def test_a_language_without_such_suites(clean_registry: None) -> None:
    register_suite("sums", "reasoning", lambda seed: small_task(), "signs")
    with pytest.raises(UserError) as caught:
        expand_task_names(["coherence"], "signs")
    assert str(caught.value) == (
        "No suite in the language 'signs' is of 'coherence'; expected one of: sums."
    )


@pytest.mark.parametrize(
    ("names", "first", "second", "label"),
    [
        (["a/mine.jsonl", "b/mine.jsonl"], "a/mine.jsonl", "b/mine.jsonl", "mine"),
        (["knowledge", "facts.jsonl"], "facts", "facts.jsonl", "facts"),
    ],
)
def test_tasks_that_results_could_not_tell_apart(names, first, second, label):
    with pytest.raises(UserError) as caught:
        expand_task_names(names)
    assert str(caught.value) == (
        f"Tasks {first!r} and {second!r} would both be called {label!r} in the results; rename "
        "one of the files."
    )


KNOWN = (
    "a path to a .jsonl, .csv, .parquet or .toml file, all, arithmetic, "
    "benchmark:NAME:data=FOLDER, brackets, coherence, facts, facts-open-book, "
    "hf:NAME:question=COLUMN:data=FOLDER, hf:OWNER/NAME:SPLIT:question=COLUMN, hops, "
    "knowledge, kv-ids, kv-words, letters-facts, letters-"
    "lookup, lm-eval:NAME, matched, matched-generate, open-book, order, organism-brackets, "
    "organism-facts, organism-lookup, organism-two-hop, passage, reasoning, repetition, "
    "retrieval, sum-chain, two-hop, wired-facts, wired-lookup, wired-two-hop, word-problems"
)


def test_unknown_names() -> None:
    for ask in (load_task, lambda name: expand_task_names(["facts", name])):
        with pytest.raises(UserError) as caught:
            ask("factz")
        assert str(caught.value) == (
            f"Unknown task 'factz'. Did you mean 'facts'? Expected one of: {KNOWN}."
        )


def test_limit_and_fewshot_take_the_first() -> None:
    whole, part = load_task("facts"), load_task("facts", limit=7, fewshot=2)
    assert part.items == whole.items[:7]
    assert part.fewshot == whole.fewshot[:2]
    assert part.chance == whole.chance
    assert part.hash != whole.hash
    assert load_task("facts", limit=10_000) == whole
    assert load_task("facts", fewshot=0).fewshot == ()


def test_hash_is_of_what_shapes_requests() -> None:
    task = small_task()
    assert task.hash == small_task(description="other words", chance={}, source="x").hash
    shaping = [{"name": "other"}, {"items": task.items[:1]}, {"fewshot": ()}]
    hashes = {small_task(**change).hash for change in shaping}
    assert len(hashes | {task.hash}) == 4
    assert len(task.hash) == 64


@pytest.mark.usefixtures("clean_registry")
def test_suites_can_be_added_but_not_twice() -> None:
    register_suite("small", "knowledge", lambda seed: small_task(description=f"seed {seed}"))
    assert load_task("small", seed=5).description == "seed 5"
    assert expand_task_names(["knowledge"]) == ["facts", "small"]
    for taken in ("small", "facts", "all", "reasoning"):
        with pytest.raises(ValueError, match=f"The name '{taken}' is taken"):
            register_suite(taken, "knowledge", lambda seed: small_task())


@pytest.mark.usefixtures("clean_registry")
def test_sources_can_be_added_but_not_twice(tmp_path: Path) -> None:
    def matches(name: str) -> bool:
        return name.startswith("elsewhere:")

    def load(name: str, seed: int, fewshot: int | None) -> Task:
        return small_task(name=f"{name} {seed} {fewshot}")

    register_source(matches, load)
    assert expand_task_names(["elsewhere:x"]) == ["elsewhere:x"]
    task = load_task("elsewhere:x", seed=2, fewshot=1, limit=1)
    assert (task.name, len(task.items)) == ("elsewhere:x 2 1", 1)
    with pytest.raises(ValueError, match="registered already"):
        register_source(matches, load)
