"""Requests that cannot be made, and what is said then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.errors import UserError
from layerwise.sweep.requests import LogLikelihood
from layerwise.tasks import PROTOCOLS, Item, Task, build_requests, load_task, task_names

from .small import FRANCE, SHOWN, small_task
from .tokenizers import byte_level, word_level

BARE = replace(FRANCE, choices=())


def refusal(task: Task, item: Item, protocol: str, **options: int) -> str:
    with pytest.raises(UserError) as caught:
        build_requests(task, item, protocol, byte_level(), **options)
    return str(caught.value)


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_items_without_choices(protocol: str) -> None:
    assert refusal(small_task(), BARE, protocol) == (
        f"Item 'small/0000' of task 'small' has no choices, which protocol {protocol!r} needs; "
        "add choices or use protocol 'generate'."
    )


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_equal_choices(protocol: str) -> None:
    twice = replace(FRANCE, choices=("Paris", "Rome", "Rome"))
    assert refusal(small_task(), twice, protocol) == (
        "Item 'small/0000' of task 'small' has equal choices; expected different ones; remove "
        "one of them."
    )


def test_answer_that_is_no_choice() -> None:
    lost = replace(FRANCE, choices=("Rome", "Madrid"))
    assert refusal(small_task(), lost, "continuation") == (
        "Item 'small/0000' of task 'small' has an answer that is not among its choices; add it "
        "to them."
    )


def test_fewshot_examples_without_choices_under_letter() -> None:
    task = small_task(fewshot=(replace(SHOWN, choices=()),))
    assert refusal(task, FRANCE, "letter") == (
        "Few-shot example 'small/fewshot/0000' of task 'small' has no choices, which protocol "
        "'letter' needs; add choices, take no few-shot examples, or use another protocol."
    )
    assert len(build_requests(task, FRANCE, "continuation", byte_level())) == 3


def test_more_choices_than_letters() -> None:
    many = replace(FRANCE, choices=("Paris", *(f"Rome {i}" for i in range(26))))
    assert refusal(small_task(), many, "letter") == (
        "Task 'small' has a question with 27 choices, but there are 26 letters; leave some out "
        "or use protocol 'continuation'."
    )
    assert len(build_requests(small_task(), many, "continuation", byte_level())) == 27


def test_unknown_protocol() -> None:
    assert refusal(small_task(), FRANCE, "generation") == (
        "Unknown protocol 'generation'. Did you mean 'generate'? Expected one of: continuation, "
        "generate, letter."
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_long_for_the_model(protocol: str) -> None:
    built = build_requests(small_task(), FRANCE, protocol, byte_level())
    needed = max(
        len(one.request.context)
        + (len(one.request.continuation) if isinstance(one.request, LogLikelihood) else 4)
        for one in built
    )
    assert build_requests(small_task(), FRANCE, protocol, byte_level(), max_length=needed)
    first_too_long = refusal(small_task(), FRANCE, protocol, max_length=needed - 1)
    assert first_too_long == (
        f"Item 'small/0000' of task 'small' needs {needed} tokens (prompt and answer), but the "
        f"model takes {needed - 1}; take fewer few-shot examples or a shorter context, or "
        "leave such items out (skip_long)."
    )


def test_text_without_tokens() -> None:
    bare = replace(FRANCE, choices=("Paris", "Rome", " "))
    with pytest.raises(UserError) as caught:
        build_requests(small_task(), bare, "continuation", word_level())
    assert str(caught.value) == (
        "Item 'small/0000' of task 'small' has a prompt or an option without a token of its own "
        "under this model's tokenizer; expected at least one each; change the item's text."
    )
    empty = replace(FRANCE, question=" ")
    task = small_task(fewshot=())
    with pytest.raises(UserError):
        build_requests(task, empty, "generate", word_level())
    with pytest.raises(UserError):
        build_requests(task, empty, "continuation", word_level())


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_suite_makes_requests(name: str, protocol: str) -> None:
    task = load_task(name, limit=5)
    for item in task.items:
        built = build_requests(task, item, protocol, byte_level(start=True))
        assert len(built) == (1 if protocol == "generate" else len(item.choices))
        assert sum(one.gold for one in built) == 1
        assert {(one.item, one.task, one.protocol) for one in built} == {(item.id, name, protocol)}
        for one in built:
            assert one.request.context[0] == byte_level(start=True).bos_token_id
            if isinstance(one.request, LogLikelihood):
                whole = one.request.context + one.request.continuation
                told = byte_level().decode(whole, skip_special_tokens=True)
                assert told == f"{one.context}{one.continuation}"
