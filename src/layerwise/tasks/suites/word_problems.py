"""The reasoning suite of one-step word problems, with worked-out few-shot answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.tasks.items import Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    commonest_answer,
    draw,
    generator,
    halves,
    other_draws,
    require,
    settle,
    turned_over,
    words,
)
from layerwise.tasks.suites._sums import pair_between, value, written
from layerwise.tasks.task import GenerateSpec, Task, Template

_THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "eggs",
    "flowers",
    "keys",
    "marbles",
    "pencils",
    "stamps",
    "stickers",
    "toys",
)
_STORIES = (
    ("+", "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?"),
    ("+", "{name} finds {a} {things} in the morning and {b} in the evening. How many is that?"),
    ("+", "There are {a} {things} in a box. {name} puts {b} more in. How many are in it now?"),
    ("-", "{name} has {a} {things} and gives {b} away. How many {things} are left?"),
    ("-", "{name} had {a} {things} and lost {b}. How many {things} does {name} still have?"),
    ("-", "There are {a} {things} on a table. {name} takes {b} of them. How many are left?"),
)


def word_problems(
    seed: int = 0, *, largest: int = 9, n_items: int = N_ITEMS, n_fewshot: int = 3
) -> Task:
    """One sum or difference told as a story; few-shot answers are worked out in a sentence.

    Under ``generate`` the model writes such a sentence, and the answer is what stands after
    "The answer is" (chain of thought, Wei et al. 2022, arXiv:2201.11903).
    """
    require(largest >= 5, f"The largest number is 5 or more, not {largest}")
    rng = generator(seed, "word-problems")
    shown_names, names = halves(rng, words("names"), n_fewshot)
    shown_things, things = halves(rng, _THINGS, n_fewshot)

    def make_examples(people: Sequence[str], story_things: Sequence[str]) -> list[list[Item]]:
        alone = [slice(index, index + 1) for index in range(n_fewshot)]
        return [
            _block(rng, i, largest, people[start], story_things[start])
            for i, start in enumerate(alone)
        ]

    def others() -> list[Item]:
        blocks: list[list[Item]] = [[]]
        while not all(blocks):
            blocks = make_examples(
                draw(rng, shown_names, n_fewshot), draw(rng, shown_things, n_fewshot)
            )
        return [block[0] for block in blocks]

    examples = make_examples(shown_names, shown_things)
    drafts = turned_over(lambda turn: _block(rng, turn, largest, names, things), n_items)
    items = settle(rng, "word-problems", drafts)
    fewshot = settle(rng, "word-problems/fewshot", [block[0] for block in examples])
    return Task(
        name="word-problems",
        capability="reasoning",
        description="one-step word problems, answered by a worked-out sentence",
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(rng, "word-problems", others),
        generate=GenerateSpec(("\n",), 28, "answer_is"),
        chance=chance(items, commonest_answer(items)),
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    )


def _block(
    rng: np.random.Generator, turn: int, largest: int, names: Sequence[str], things: Sequence[str]
) -> list[Item]:
    """Four stories with the same options, of which each is right once."""
    # Sums and differences in turn.
    sign = "+-"[turn % 2]
    first, second = sorted(int(number) for number in rng.integers(2, largest + 1, 2))[::-1]

    def numbers(answer: int) -> list[int] | None:
        return pair_between(rng, 2, largest, sign, answer)

    start = value([first, second], sign)
    offsets = draw(rng, [1, -1, 2, -2, 3, -3], 6)
    options = [start, *(start + offset for offset in offsets if numbers(start + offset))][:4]
    drawn = [numbers(answer) for answer in draw(rng, options, len(options))]
    return [_item(rng, pair, sign, options, names, things) for pair in drawn if pair]


def _item(
    rng: np.random.Generator,
    numbers: Sequence[int],
    sign: str,
    options: Sequence[int],
    names: Sequence[str],
    things: Sequence[str],
) -> Item:
    first, second = sorted(numbers, reverse=True)
    answer = value([first, second], sign)
    (name,), (thing,) = draw(rng, names, 1), draw(rng, things, 1)
    story = draw(rng, [text for kind, text in _STORIES if kind == sign], 1)[0]
    return Item(
        id="",
        question=story.format(name=name, things=thing, a=first, b=second),
        answer=str(answer),
        choices=tuple(map(str, (answer, *(option for option in options if option != answer)))),
        worked=f"{first} {sign} {second} = {answer}. The answer is {answer}.",
        group="sum" if sign == "+" else "difference",
        cluster=written(numbers, sign),
    )
