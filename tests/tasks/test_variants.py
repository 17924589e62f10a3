"""Suites with arguments in their names, and the sets of suites that are about as difficult."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from layerwise.errors import UserError
from layerwise.tasks import CAPABILITIES, Task, expand_task_names, load_task, registry
from layerwise.tasks.registry import arguments_in_words
from layerwise.tasks.suites import MATCHED, arithmetic, facts, kv_words

from .small import small_task

SETS = [(name, language) for name, by_language in MATCHED.items() for language in by_language]


def test_a_name_with_arguments_is_the_suite_made_with_them() -> None:
    task = load_task("kv-words:n_pairs=8", seed=3, limit=40)
    assert task.name == "kv-words:n_pairs=8"
    assert task.items == kv_words(3, n_pairs=8).items[:40]
    digits = load_task("arithmetic:n_items=40:digits=1+2")
    assert digits.name == "arithmetic:digits=1+2:n_items=40"
    assert digits.items == arithmetic(digits=(1, 2), n_items=40).items
    assert load_task("arithmetic:digits=3").items == arithmetic(digits=[3]).items


def test_names_are_written_one_way() -> None:
    names = ["brackets:n_closed=2:depth=03", "brackets:depth=3:n_closed=2", "brackets", "brackets"]
    assert expand_task_names(names) == ["brackets:depth=3:n_closed=2", "brackets"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        *((one, one) for one in ("n_pair=8", "n_pairs", "n_pairs=", "n_pairs=5+6", "n_pairs=-1")),
        *((one, one) for one in ("n_pairs=1e3", "n_pairs=12345", "", "seed=3")),
        ("n_pairs=8:n_pairs=9", "n_pairs=9"),
        ("n_pairs=8:", ""),
    ],
)
def test_arguments_that_cannot_be_read(text: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task(f"kv-words:{text}")
    assert str(caught.value) == (
        f"Cannot read {part!r} in the task name 'kv-words:{text}': expected arguments of "
        "'kv-words', each once, with whole numbers of at most four digits, such as "
        "kv-words:n_pairs=8; it takes n_pairs, n_items, n_fewshot."
    )


def test_what_a_suite_refuses_is_refused_by_name_too() -> None:
    with pytest.raises(UserError, match="There are 4 to 26 pairs, not 3"):
        load_task("kv-words:n_pairs=3")
    with pytest.raises(UserError, match="asks for 0 items; expected 1 or more"):
        load_task("kv-words:n_items=0")
    with pytest.raises(UserError, match="Unknown task 'kv-wordz:n_pairs=8'"):
        load_task("kv-wordz:n_pairs=8")


def test_suites_of_others_have_their_arguments_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(seed: int = 0, *, n_words: int = 3, sizes: Sequence[int] = (1, 2)) -> Task:
        return small_task(description=f"{seed} {n_words} {sizes}")

    monkeypatch.setattr(registry, "_suites", dict(registry._suites))
    registry.register_suite("counted", "knowledge", counted)
    registry.register_suite("plain", "knowledge", lambda seed: small_task())
    assert load_task("counted:sizes=4+5:n_words=2", seed=1).description == "1 2 (4, 5)"
    assert arguments_in_words("counted") == "n_words=3, sizes=1+2"
    with pytest.raises(UserError, match="Suite 'plain' takes no arguments; ask for 'plain' alone"):
        load_task("plain:n_words=2")
    with pytest.raises(ValueError, match="The name 'matched' is taken"):
        registry.register_suite("matched", "knowledge", counted)
    with pytest.raises(ValueError, match="The name 'a:b' is taken"):
        registry.register_suite("a:b", "knowledge", counted)


@pytest.mark.parametrize(("name", "language"), SETS)
def test_a_matched_set_has_one_suite_of_each_capability(name: str, language: str) -> None:
    names = expand_task_names([name], language)
    assert names == list(MATCHED[name][language])
    assert not any("," in one for one in names)  # tables join names by commas
    assert [load_task(one).capability for one in names] == list(CAPABILITIES)


def test_examples_of_rare_facts_give_none_of_them_away() -> None:
    for seed in range(5):
        task = facts(seed, rarity=2)
        told = {text for one in task.fewshot for text in (one.answer, one.question)}
        assert not told & {text for one in task.items for text in (one.answer, one.question)}


def test_what_is_asked_before_is_in_the_context_and_never_an_option() -> None:
    for name, ask in (("lookup:n_pairs=9", "ask"), ("two-hop:n_chains=9", "ask2")):
        task = load_task(f"organism-{name}:n_before=3")
        assert task.chance["generate"] == pytest.approx(1 / 6)
        for item in task.items:
            context, before = (item.context or "").split(f" {ask} ", 1)
            told = dict(pair.split() for pair in context.strip(" ;").split(" ; "))
            questions = f"{ask} {before}".strip(" ;").split(" ; ")
            assert len(set(questions)) == 3
            for question in questions:
                key, answer = question.removeprefix(f"{ask} ").split(" -> ")
                assert answer == (told[key] if ask == "ask" else told[told[key]])
                assert answer not in item.choices
