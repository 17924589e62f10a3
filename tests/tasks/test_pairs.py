"""Prompts for patching, and items whose first token tells nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.sweep.requests import LogLikelihood
from layerwise.tasks import (
    Corruption,
    PatchingPrompts,
    build_requests,
    load_task,
    patching_prompts,
    shared_first_tokens,
)
from tests.cases import LONG

from .small import BEN, FRANCE, small_task
from .smollm2 import smollm2_tokenizer
from .tokenizers import byte_level, word_level


def ids(text: str) -> tuple[int, ...]:
    return tuple(word_level()(text)["input_ids"])


def test_pair_of_prompts() -> None:
    shown = "The capital of Spain is Madrid.\n"
    assert patching_prompts(small_task(), FRANCE, word_level()) == PatchingPrompts(
        item="small/0000",
        clean=ids(shown + "The capital of France is"),
        corrupted=ids(shown + "The capital of Spain is"),
        clean_answer=ids("Paris")[0],
        corrupted_answer=ids("Madrid")[0],
        problem=None,
    )


def test_clean_prompt_is_that_of_continuation() -> None:
    task = load_task("kv-words", limit=5)
    for item in task.items:
        pair = patching_prompts(task, item, byte_level())
        asked = build_requests(task, item, "continuation", byte_level())
        (gold,) = [one.request for one in asked if one.gold]
        assert pair is not None
        assert isinstance(gold, LogLikelihood)
        assert (pair.clean, pair.clean_answer) == (gold.context, gold.continuation[0])


def test_corrupted_context_is_put_in_place_of_the_items() -> None:
    item = replace(BEN, corruption=Corruption("The tallest is", "Ben", "Ben is taller than Anna."))
    pair = patching_prompts(small_task(fewshot=()), item, word_level())
    assert pair is not None
    assert pair.corrupted == ids("Ben is taller than Anna. The tallest is")
    assert pair.corrupted_answer == ids("Ben")[0]


def test_unequal_lengths_are_a_problem() -> None:
    item = replace(FRANCE, corruption=Corruption("The capital of the Spain is", "Madrid"))
    pair = patching_prompts(small_task(fewshot=()), item, word_level())
    assert pair is not None
    assert pair.problem == (
        "Item 'small/0000' and its corruption have 5 and 6 tokens; patching needs equal lengths, "
        "or pairs that are aligned."
    )


def test_answers_that_begin_alike_are_a_problem() -> None:
    item = replace(FRANCE, corruption=Corruption("The capital of Spain is", "Paris Madrid"))
    pair = patching_prompts(small_task(), item, word_level())
    assert pair is not None
    assert pair.problem == (
        "The answers to item 'small/0000' and to its corruption begin with the same token; "
        "patching needs different ones."
    )


def test_shared_first_tokens() -> None:
    shared = replace(FRANCE, id="shared", choices=("Paris", "Paris Madrid", "Rome"))
    harmless = replace(FRANCE, id="harmless", choices=("Paris", "Madrid Rome", "Madrid"))
    bare = replace(FRANCE, id="bare", choices=())
    task = small_task(items=(shared, harmless, bare, FRANCE))
    assert shared_first_tokens(task, word_level()) == ("shared",)


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("name", "usable", "readable"),
    [
        ("kv-words", 0.95, 1.0),
        ("kv-ids", 0.5, 1.0),
        ("open-book", 0.8, 0.98),
        ("facts", 0.85, 0.98),
        ("facts-open-book", 0.85, 0.98),
        ("arithmetic", 0.9, 0.7),
        ("sum-chain", 0.7, 0.5),
        ("order", 0.6, 1.0),
        ("two-hop", 0.95, 1.0),
        ("brackets", 0.0, 1.0),
        ("repetition", 0.0, 1.0),
        ("passage", 0.0, 1.0),
    ],
)
def test_most_items_serve_patching_and_lens_on_smollm2(
    name: str, usable: float, readable: float
) -> None:
    task, tokenizer = load_task(name, limit=None if LONG else 80), smollm2_tokenizer()
    pairs = [patching_prompts(task, item, tokenizer) for item in task.items]
    fit = sum(pair is not None and pair.problem is None for pair in pairs)
    assert fit / len(pairs) >= usable
    assert 1 - len(shared_first_tokens(task, tokenizer)) / len(task.items) >= readable
