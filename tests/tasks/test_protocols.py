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


@pytest.mark.parametrize(
    ("task", "item", "protocol", "says"),
    [
        (small_task(), BARE, "letter", "no choices, which protocol 'letter' needs; add choices"),
        (small_task(), BARE, "continuation", "no choices, which protocol 'continuation' needs"),
        (small_task(), replace(FRANCE, choices=("Paris", "Rome", "Rome")), "letter",
         "Item 'small/0000' of task 'small' has equal choices; expected different ones; remove"),
        (small_task(), replace(FRANCE, choices=("Rome", "Madrid")), "continuation",
         "Item 'small/0000' of task 'small' has an answer that is not among its choices; add it"),
        (small_task(fewshot=(replace(SHOWN, choices=()),)), FRANCE, "letter",
         "Few-shot example 'small/fewshot/0000' of task 'small' has no choices, which protocol"),
        (small_task(), replace(FRANCE, choices=("Paris", *(f"Rome {i}" for i in range(26)))),
         "letter", "has a question with 27 choices, but there are 26 letters; leave some out"),
        (small_task(), FRANCE, "generation", "Unknown protocol 'generation'. Did you mean 'gen"),
    ],
)  # fmt: skip
def test_what_a_protocol_cannot_ask_is_refused(task, item, protocol, says) -> None:
    assert says in refusal(task, item, protocol)
