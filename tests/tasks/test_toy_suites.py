"""The suites of toy languages: their answers are true, and their items are kept from training."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from layerwise.errors import UserError
from layerwise.models.organisms import ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.tasks import (
    PROTOCOLS,
    Item,
    build_requests,
    load_task,
    patching_prompts,
    shared_first_tokens,
    task_names,
)

NAMES = task_names("organism")
CLOSING = dict(ORGANISM.brackets)


def context_pairs(context: str | None) -> dict[str, str]:
    words = (context or "").split()
    return {key: value for key, value, _ in zip(words[::3], words[1::3], words[2::3], strict=True)}


def expected_answer(name: str, context: str | None, question: str) -> str:
    """The answer by reading the question as a person would."""
    words = question.split()
    if name == "organism-lookup":
        return context_pairs(context)[words[1]]
    if name == "organism-two-hop":
        return context_pairs(context)[context_pairs(context)[words[1]]]
    if name == "organism-facts":
        return ORGANISM.facts[words[0], words[2]]
    return " ".join(CLOSING[one] for one in reversed(words[1:-1]))


def kept_words(name: str, item: Item) -> list[tuple[str, ...]]:
    """The combinations that make an item one that training never shows."""
    words = item.question.split()
    if name == "organism-lookup":
        return [(words[1], item.answer)]
    if name == "organism-two-hop":
        middle = context_pairs(item.context)[words[1]]
        return [(words[1], middle), (middle, item.answer)]
    if name == "organism-facts":
        before = (item.context or "").split()
        return [(before[0], before[2], words[0], words[2])]
    return [tuple(words[1:-1])]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_true(name: str) -> None:
    for item in load_task(name).items:
        assert item.answer == expected_answer(name, item.context, item.question)
        change = item.corruption
        assert change is not None
        assert (
            change.answer == expected_answer(name, change.context, change.question) != item.answer
        )


@pytest.mark.parametrize("name", NAMES)
def test_items_are_kept_from_training(name: str) -> None:
    for item in load_task(name, seed=5).items:
        assert all(ORGANISM.for_tests(*words) for words in kept_words(name, item))


def test_facts_are_asked_once_each_and_name_themselves() -> None:
    for name, n in (("organism-facts", 200), ("wired-facts", 48)):
        items = load_task(name).items
        assert len({item.cluster for item in items}) == len(items) == n
        assert all(item.cluster == "{0}: {2}".format(*item.question.split()) for item in items)


@pytest.mark.parametrize("name", NAMES)
def test_every_word_is_one_known_token_under_every_protocol(name: str) -> None:
    tokenizer, task = toy_tokenizer(ORGANISM), load_task(name, limit=40)
    for item in task.items:
        for protocol in PROTOCOLS:
            for asked in build_requests(task, item, protocol, tokenizer):
                tokens = (*asked.request.context, *getattr(asked.request, "continuation", ()))
                text = asked.context + (asked.continuation or "")
                assert tokenizer.unk_token_id not in tokens
                assert [ORGANISM.words[one] for one in tokens] == ["<s>", *text.split()]
        pair = patching_prompts(task, item, tokenizer)
        assert pair is not None
        assert pair.problem is None
    assert shared_first_tokens(task, tokenizer) == ()


def test_facts_are_true_of_each_entity_and_values_are_equally_frequent() -> None:
    facts = ORGANISM.facts
    assert len(facts) == 3 * 120
    for relation in ORGANISM.relations:
        counts = Counter(value for (one, _), value in facts.items() if one == relation)
        assert set(counts.values()) == {3}
        assert len(counts) == 40
    other = Language("other", 40, 40, 120, 3, facts_seed=1)
    assert other.facts != facts == Language("same", 40, 40, 120, 3).facts


def test_an_eighth_is_kept_for_tests_and_all_where_nothing_is_trained() -> None:
    kept = [ORGANISM.for_tests(*pair) for pair in pairwise(map(str, range(4000)))]
    assert 1 / 9 < sum(kept) / len(kept) < 1 / 7
    assert Language("wired", 4, 4, 0, 0).for_tests("k0", "v0")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"n_keys": 3}, "The language 'toy' has n_keys 3; expected 4 or more."),
        ({"test_share": 0}, "The language 'toy' has test_share 0; expected 1 or more."),
        ({"n_brackets": 5}, "The language 'toy' has 5 kinds of brackets; expected at most 4."),
    ],
)
def test_sizes_that_make_no_language(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Language("toy", **({"n_keys": 4, "n_values": 4, "n_entities": 0, "n_relations": 0} | sizes))
    assert str(caught.value) == said
