"""Texts of the benchmarks: pieces of the built-in suites' own text, cut to exact sizes.

The pieces of one call begin with different tokens, so that no two share a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from layerwise.sweep import Generate, LogLikelihood
from layerwise.tasks import Item, Task, build_requests, load_task

# Suites whose items are sentences, by turns, so that neighbours are of different kinds.
SENTENCES = ("passage", "word-problems", "facts-open-book", "order", "open-book", "two-hop")


def scored_items(
    tokenizer: Any, n_items: int, n_options: int, context: int, continuation: int
) -> list[list[LogLikelihood]]:
    """Distinct items of exact lengths in tokens, the options of one item together.

    The first option is how the text goes on, the others are from further on in it.
    """
    long = context + n_options * continuation
    starts = range(context, long, continuation)
    return [
        [LogLikelihood(piece[:context], piece[i : i + continuation]) for i in starts]
        for piece in pieces(tokenizer, n_items, long)
    ]


def distinct_prompts(tokenizer: Any, n_items: int, context: int, max_tokens: int) -> list[Generate]:
    """Distinct prompts of exactly ``context`` tokens, to be continued without a stop string."""
    return [Generate(piece, max_tokens) for piece in pieces(tokenizer, n_items, context)]


def few_shot_prompts(tokenizer: Any, task: Task, n_items: int, max_tokens: int) -> list[Generate]:
    """The task's own prompts with its examples, continued without a stop string."""
    asked = [build_requests(task, item, "generate", tokenizer)[0] for item in task.items[:n_items]]
    return [Generate(one.request.context, max_tokens) for one in asked]


def with_shots(name: str, shots: int, n_items: int) -> Task:
    """A suite with so many few-shot examples; where it lacks some, its last items serve."""
    task = load_task(name)
    examples = (*task.fewshot, *task.items[n_items:][::-1])[:shots]
    if len(examples) < shots:
        raise SystemExit(f"{name} has only {len(examples)} examples beside {n_items} items.")
    return replace(task, fewshot=examples, items=task.items[:n_items])


def shared_prefix(contexts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all contexts begin with."""
    same = [len(set(column)) == 1 for column in zip(*contexts, strict=False)]
    return same.index(False) if False in same else len(same)


def pieces(tokenizer: Any, n: int, length: int) -> list[tuple[int, ...]]:
    """``n`` pieces of the suites' text of ``length`` tokens each, no two of which begin alike."""
    tokens = tokenizer(_text(tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
    found: dict[int, tuple[int, ...]] = {}
    start = 0
    while len(found) < n and start + length <= len(tokens):
        piece = tuple(tokens[start : start + length])
        new = piece[0] not in found
        if new:
            found[piece[0]] = piece
        start += length if new else 1
    if len(found) < n:
        raise SystemExit(f"The suites have text for {len(found)} pieces of {length} tokens only.")
    return list(found.values())


def _text(tokenizer: Any) -> str:
    """Questions with their answers and without few-shot examples, the suites by turns."""
    tasks = [load_task(name, fewshot=0) for name in SENTENCES]
    turns = zip_longest(*([(task, item) for item in task.items] for task in tasks))
    return "\n\n".join(
        _answered_question(*one, tokenizer) for one in chain(*turns) if one is not None
    )


def _answered_question(task: Task, item: Item, tokenizer: Any) -> str:
    options = build_requests(task, item, "continuation", tokenizer)
    return "".join(f"{one.context}{one.continuation}" for one in options if one.gold)
