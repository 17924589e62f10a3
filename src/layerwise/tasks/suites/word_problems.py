"""The reasoning suite of one-step word problems, with worked-out few-shot answers.

Bare sums are in ``arithmetic``.
"""

from __future__ import annotations

import numpy as np

from layerwise.tasks.items import Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    commonest_answer,
    distinct,
    draw,
    generator,
    halves,
    settle,
    words,
)
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

    Args:
        seed: decides stories, names and numbers.
        largest: the numbers told are from 2 to this; larger is harder.
        n_items: number of items.
        n_fewshot: number of few-shot examples, with names and things that no item has.
    """
    rng = generator(seed, "word-problems")
    shown_names, names = halves(rng, words("names"), n_fewshot)
    shown_things, things = halves(rng, _THINGS, n_fewshot)
    examples = [
        _item(rng, index, largest, shown_names[index], shown_things[index])
        for index in range(n_fewshot)
    ]

    def make(index: int) -> Item:
        return _item(rng, index, largest, draw(rng, names, 1)[0], draw(rng, things, 1)[0])

    items = settle(rng, "word-problems", distinct(make, n_items))
    return Task(
        name="word-problems",
        capability="reasoning",
        description="one-step word problems, answered by a worked-out sentence",
        items=items,
        fewshot=settle(rng, "word-problems/fewshot", examples),
        generate=GenerateSpec(("\n",), 28, "answer_is"),
        chance=chance(items, commonest_answer(items)),
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    )


def _item(rng: np.random.Generator, index: int, largest: int, name: str, things: str) -> Item:
    # Sums and differences in turn.
    sign, story = _STORIES[int(rng.integers(3)) + 3 * (index % 2)]
    first, second = sorted(int(number) for number in rng.integers(2, largest + 1, 2))[::-1]
    answer = first + second if sign == "+" else first - second
    near = [answer + offset for offset in (1, -1, 2, -2, 3) if answer + offset >= 0]
    choices = (str(answer), *map(str, draw(rng, near, 3)))
    return Item(
        id="",
        question=story.format(name=name, things=things, a=first, b=second),
        answer=str(answer),
        choices=choices,
        worked=f"{first} {sign} {second} = {answer}. The answer is {answer}.",
        group="sum" if sign == "+" else "difference",
    )
