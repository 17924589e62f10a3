"""Reasoning suites of bare sums: two numbers, and chains of small ones.

Sums told as stories are in ``word_problems``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import (
    N_ITEMS,
    chance,
    commonest_answer,
    distinct,
    draw,
    generator,
    require,
    settle,
)
from layerwise.tasks.task import GenerateSpec, Task, Template

# Many tokenizers make a token of its own of a space before a digit, and then all answers
# would begin alike; sums of money have their digits right after the sign.
_TEMPLATE = Template(answer_cue=" = $", delimiter="", separator="\n")
_GENERATE = GenerateSpec(("\n",), 6, "integer")
_KINDS = ((1, "+"), (2, "-"), (1, "-"), (2, "+"))


def arithmetic(seed: int = 0, *, n_items: int = N_ITEMS, n_fewshot: int = 4) -> Task:
    """Sums and differences of two numbers of one or two digits; the group says which.

    Args:
        seed: decides the numbers.
        n_items: number of items; the four groups take turns.
        n_fewshot: number of few-shot examples, the groups in the same turn.
    """
    rng = generator(seed, "arithmetic")

    def make(index: int) -> Item:
        return _two_numbers(rng, *_KINDS[index % len(_KINDS)])

    examples = distinct(make, n_fewshot, key=_unordered)
    drafts = distinct(make, n_items, examples, key=_unordered)
    return _task(
        rng, "arithmetic", "sums and differences of one- and two-digit numbers", drafts, examples
    )


def sum_chain(
    seed: int = 0,
    *,
    terms: Sequence[int] = (3, 4),
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Sums of several one-digit numbers; the group is their number.

    Args:
        seed: decides the numbers.
        terms: how many numbers are added, taken in turn; more is harder.
        n_items: number of items.
        n_fewshot: number of few-shot examples.
    """
    require(min(terms) >= 3, f"A chain has at least 3 terms, not {min(terms)}")
    rng = generator(seed, "sum-chain")

    def make(index: int) -> Item:
        numbers = [int(number) for number in rng.integers(1, 10, terms[index % len(terms)])]
        return _item(rng, numbers, "+", f"{len(numbers)} terms")

    examples = distinct(make, n_fewshot, key=_unordered)
    drafts = distinct(make, n_items, examples, key=_unordered)
    return _task(rng, "sum-chain", "sums of several one-digit numbers", drafts, examples)


def _task(
    rng: np.random.Generator,
    name: str,
    description: str,
    drafts: list[Item],
    examples: list[Item],
) -> Task:
    items = settle(rng, name, drafts)
    return Task(
        name=name,
        capability="reasoning",
        description=description,
        items=items,
        fewshot=settle(rng, f"{name}/fewshot", examples),
        generate=_GENERATE,
        chance=chance(items, commonest_answer(items)),
        template=_TEMPLATE,
    )


def _two_numbers(rng: np.random.Generator, digits: int, sign: str) -> Item:
    low, high = (0, 10) if digits == 1 else (10, 100)
    first, second = (int(number) for number in rng.integers(low, high, 2))
    if sign == "-":
        first, second = max(first, second), min(first, second)
    kind = "sum" if sign == "+" else "difference"
    return _item(rng, [first, second], sign, f"{digits}-digit {kind}")


def _item(rng: np.random.Generator, numbers: list[int], sign: str, group: str) -> Item:
    answer = _value(numbers, sign)
    return Item(
        id="",
        question=_written(numbers, sign),
        answer=str(answer),
        choices=(str(answer), *_near(rng, answer)),
        corruption=_corruption(rng, numbers, sign),
        group=group,
    )


def _unordered(item: Item) -> str:
    """3 + 4 and 4 + 3 are one fact; in differences the larger number is first anyway."""
    return " ".join(sorted(item.question.split()))


def _written(numbers: Sequence[int], sign: str) -> str:
    return f" {sign} ".join(f"${number}" for number in numbers)


def _value(numbers: Sequence[int], sign: str) -> int:
    return sum(numbers) if sign == "+" else numbers[0] - sum(numbers[1:])


def _near(rng: np.random.Generator, answer: int) -> list[str]:
    """Three wrong answers close by.

    Those with another first digit are preferred: what reads only the first token can use
    the item then.
    """
    step = 1 if answer < 20 else 10
    offsets = [sign * step * size for size in (1, 2, 3, 4) for sign in (1, -1)]
    values = [str(answer + offset) for offset in draw(rng, offsets, 8) if answer + offset >= 0]
    values.sort(key=lambda value: (value[0] == str(answer)[0], len(value) != len(str(answer))))
    return values[:3]


def _corruption(rng: np.random.Generator, numbers: list[int], sign: str) -> Corruption:
    """One other operand of as many digits, so that the answer begins differently if it can."""
    answer = _value(numbers, sign)
    low, high = (0, 10) if max(numbers) < 10 else (10, 100)
    twins = [
        [*numbers[:place], other, *numbers[place + 1 :]]
        for place in range(len(numbers))
        for other in range(low, high)
    ]
    valid = [twin for twin in twins if _value(twin, sign) >= 0 and _value(twin, sign) != answer]
    mixed = draw(rng, valid, len(valid))
    chosen = min(mixed, key=lambda twin: str(_value(twin, sign))[0] == str(answer)[0])
    return Corruption(_written(chosen, sign), str(_value(chosen, sign)))
