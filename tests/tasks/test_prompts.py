"""The exact prompts, to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.errors import UserError
from layerwise.sweep.requests import Generate
from layerwise.tasks import Item, build_requests, load_task

from .small import BEN, FRANCE, SHOWN, small_task
from .tokenizers import byte_level, with_chat


def texts(protocol: str, item: Item, **options: bool) -> list[tuple[str, str | None, bool]]:
    tokenizer = with_chat() if options else byte_level()
    built = build_requests(small_task(), item, protocol, tokenizer, **options)
    return [(one.context, one.continuation, one.gold) for one in built]


def test_letter_prompt() -> None:
    context = (
        "The capital of Spain is\nA. Rome\nB. Paris\nC. Madrid\nAnswer: C\n\n"
        "The capital of France is\nA. Rome\nB. Paris\nC. Madrid\nAnswer:"
    )
    assert texts("letter", FRANCE) == [
        (context, " A", False),
        (context, " B", True),
        (context, " C", False),
    ]


def test_continuation_prompt() -> None:
    context = "The capital of Spain is Madrid.\nThe capital of France is"
    assert texts("continuation", FRANCE) == [
        (context, " Rome", False),
        (context, " Paris", True),
        (context, " Madrid", False),
    ]


def test_generate_prompt_is_that_of_continuation() -> None:
    context = "The capital of Spain is Madrid.\nAnna is taller than Ben. The tallest is"
    assert texts("generate", BEN) == [(context, None, True)]
    assert {text for text, _, _ in texts("continuation", BEN)} == {context}


def test_generate_request_has_the_tasks_stop_strings_and_length() -> None:
    (built,) = build_requests(small_task(), BEN, "generate", byte_level())
    assert isinstance(built.request, Generate)
    assert (built.request.stop, built.request.max_tokens) == ((".", "\n"), 4)
    assert byte_level().decode(built.request.context) == built.context


def test_worked_examples_are_shown_worked_out() -> None:
    shown = replace(SHOWN, worked="Spain is ruled from Madrid.")
    (built,) = build_requests(small_task(fewshot=(shown,)), FRANCE, "generate", byte_level())
    assert built.context == (
        "The capital of Spain is Spain is ruled from Madrid..\nThe capital of France is"
    )


def test_chat_has_examples_as_turns_and_drops_the_delimiter() -> None:
    shown = "<s>[user] The capital of Spain is\n[assistant] Madrid\n"
    context = f"{shown}[user] The capital of France is\n[assistant]\n"
    assert texts("continuation", FRANCE, chat=True)[1] == (context, "Paris", True)
    assert texts("generate", FRANCE, chat=True) == [(context, None, True)]
    (built,) = build_requests(small_task(), FRANCE, "generate", with_chat(), chat=True)
    assert built.request.context.count(with_chat().bos_token_id) == 1


def test_chat_begins_with_the_system_prompt_and_answers_letters_by_letters() -> None:
    task = small_task(system="Be brief.")
    built = build_requests(task, FRANCE, "letter", with_chat(), chat=True)
    options = "A. Rome\nB. Paris\nC. Madrid\nAnswer:"
    assert built[1].context == (
        f"<s>[system] Be brief.\n[user] The capital of Spain is\n{options}\n[assistant] C\n"
        f"[user] The capital of France is\n{options}\n[assistant]\n"
    )
    assert (built[1].continuation, built[1].gold) == ("B", True)


def test_chat_needs_a_template() -> None:
    with pytest.raises(UserError) as caught:
        build_requests(small_task(), FRANCE, "generate", byte_level(), chat=True)
    assert str(caught.value) == (
        "This model's tokenizer has no chat template; expected one because chat prompts were "
        "asked for; turn the chat option off."
    )


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("facts", "A young horse is called a foal.\nThe language spoken in Egypt is"),
        ("arithmetic", "$22 + $15 = $37\n$1 + $2 = $"),
        (
            "kv-words",
            "> rope is basket, sail is drum, ticket is pepper, teacher is radio, bridge is ship\n"
            "> sail is",
        ),
    ],
)
def test_suites_prompts(name: str, end: str) -> None:
    task = load_task(name)
    (built,) = build_requests(task, task.items[0], "generate", byte_level())
    assert built.context.endswith(end)
