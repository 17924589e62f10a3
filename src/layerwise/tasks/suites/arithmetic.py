"""Reasoning suites of bare sums: two numbers, and chains of small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    commonest_answer,
    draw,
    generator,
    other_draws,
    require,
    settle,
    turned_over,
)
from layerwise.tasks.suites._sums import chain, near, pair, span, spread_out, value, written
from layerwise.tasks.task import GenerateSpec, Task, Template

# Many tokenizers make a token of its own of a space before a digit, and then all answers
# would begin alike; sums of money have their digits right after the sign.
_TEMPLATE = Template(answer_cue=" = $", delimiter="", separator="\n")
_GENERATE = GenerateSpec(("\n",), 6, "integer")


def arithmetic(
    seed: int = 0,
    *,
    digits: Sequence[int] = (1, 2),
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Sums and differences of two numbers of equally many digits; the group says which.

    The items come in blocks of four with the same options, each of them right once.

    Args:
        seed: decides the numbers.
        digits: how many digits the numbers have, from 1 to 4; more is harder.
        n_items: number of items; the kinds take turns, but there are few one-digit sums.
        n_fewshot: number of few-shot examples, the kinds in the same turn.
    """
    require(set(digits) <= {1, 2, 3, 4} and bool(digits), f"Digits are 1 to 4, not {digits}")
    rng = generator(seed, "arithmetic")
    kinds = [(n, "+-"[(index + turn) % 2]) for turn in (0, 1) for index, n in enumerate(digits)]

    def make(turn: int) -> list[Item]:
        n, sign = kinds[turn % len(kinds)]
        low, high = span(n)
        numbers = sorted((int(integer) for integer in rng.integers(low, high, 2)), reverse=True)
        start = value(numbers, sign)
        group = f"{n}-digit {'sum' if sign == '+' else 'difference'}"
        if n == 1:
            options = spread_out(rng, start, range(19 if sign == "+" else 10))
        else:
            options = near(rng, start, lambda answer: pair(rng, n, sign, answer) is not None)
        return _block(rng, options, lambda answer: pair(rng, n, sign, answer), sign, group)

    return _task(rng, "arithmetic", "sums and differences of two numbers", make, n_items, n_fewshot)


def sum_chain(
    seed: int = 0,
    *,
    terms: Sequence[int] = (3, 4),
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Sums of several one-digit numbers; the group is their number.

    The items come in blocks of four with the same options, each of them right once. In every
    other pair of blocks the options begin with different digits as far as sums allow, in the
    rest they are at most 4 apart from one of them.
    """
    require(min(terms) >= 3 and max(terms) <= 12, f"A chain has 3 to 12 terms, not {terms}")
    rng = generator(seed, "sum-chain")

    def make(turn: int) -> list[Item]:
        n = terms[turn % len(terms)]
        start = int(rng.integers(1, 10, n).sum())
        if turn // len(terms) % 2:
            options = near(rng, start, lambda answer: n <= answer <= 9 * n, step=1)
        else:
            options = spread_out(rng, start, range(n, 9 * n + 1))
        return _block(rng, options, lambda answer: chain(rng, n, answer), "+", f"{n} terms")

    return _task(rng, "sum-chain", "sums of several one-digit numbers", make, n_items, n_fewshot)


def _task(
    rng: np.random.Generator,
    name: str,
    description: str,
    make: Callable[[int], list[Item]],
    n_items: int,
    n_fewshot: int,
) -> Task:

    def make_examples(taken: Sequence[Item] = ()) -> list[Item]:
        built: list[Item] = []
        for turn in range(n_fewshot):
            make_one = partial(_first_of, make, turn)
            built += turned_over(make_one, 1, [*built, *taken], _fact)
        return built

    examples = make_examples()
    drafts = turned_over(make, n_items, examples, _fact)
    items = settle(rng, name, [_corrupted(rng, draft) for draft in drafts])
    fewshot = settle(rng, f"{name}/fewshot", [_corrupted(rng, example) for example in examples])
    return Task(
        name=name,
        capability="reasoning",
        description=description,
        items=items,
        fewshot=fewshot,
        other_fewshot=other_draws(
            rng,
            name,
            lambda: [_corrupted(rng, make_example) for make_example in make_examples(items)],
        ),
        generate=_GENERATE,
        chance=chance(items, commonest_answer(items)),
        template=_TEMPLATE,
    )


def _first_of(make: Callable[[int], list[Item]], turn: int, misses: int) -> list[Item]:
    return make(turn + misses)[:1]


def _fact(item: Item) -> str | None:
    """3 + 4 and 4 + 3 are one question."""
    return item.cluster


def _block(
    rng: np.random.Generator,
    options: Sequence[int],
    numbers: Callable[[int], list[int] | None],
    sign: str,
    group: str,
) -> list[Item]:
    """An item for each option, in random order; none if there are too few options."""
    drawn = [numbers(answer) for answer in draw(rng, options, len(options))]
    return [_item(sum_, options, sign, group) for sum_ in drawn if sum_] * (len(options) == 4)


def _item(numbers: list[int], options: Sequence[int], sign: str, group: str) -> Item:
    answer = value(numbers, sign)
    return Item(
        id="",
        question=f" {sign} ".join(f"${number}" for number in numbers),
        answer=str(answer),
        choices=tuple(map(str, (answer, *(option for option in options if option != answer)))),
        group=group,
        cluster=written(numbers, sign),
    )


def _corrupted(rng: np.random.Generator, item: Item) -> Item:
    """With one other operand of as many digits, so that the answer begins differently if it can."""
    sign = item.question.split()[1]
    numbers = [int(number.strip("$")) for number in item.question.split()[::2]]
    answer = value(numbers, sign)
    low, high = span(len(str(max(numbers))))
    twins = [
        [*numbers[:at], other, *numbers[at + 1 :]]
        for at in range(len(numbers))
        for other in (range(low, high) if high <= 100 else map(int, rng.integers(low, high, 50)))
    ]
    valid = [twin for twin in twins if value(twin, sign) >= 0 and value(twin, sign) != answer]
    mixed = draw(rng, valid, len(valid))
    chosen = min(mixed, key=lambda twin: str(value(twin, sign))[0] == str(answer)[0])
    question = f" {sign} ".join(f"${number}" for number in chosen)
    return replace(item, corruption=Corruption(question, str(value(chosen, sign))))
