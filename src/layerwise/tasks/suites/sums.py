"""Reasoning suites of sums: of two numbers, chains of small ones, and told as a story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations_with_replacement
from operator import attrgetter

import numpy as np

from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.task import GenerateSpec, Task, Template

from ._building import (
    N_ITEMS,
    balanced_drafts,
    data,
    draw,
    generator,
    halves,
    require,
    settle,
    suite,
)

# Many tokenizers make a token of its own of a space before a digit, and then all answers
# would begin alike; sums of money have their digits right after the sign.
_TEMPLATE = Template(answer_cue=" = $", delimiter="", separator="\n")
_GENERATE = GenerateSpec(("\n",), 6, "integer")


def span(digits: int) -> tuple[int, int]:
    """The numbers of so many digits, from the first up to before the second."""
    return (0, 10) if digits == 1 else (10 ** (digits - 1), 10**digits)


def value(numbers: Sequence[int], sign: str) -> int:
    """The sum, or the first number less the others."""
    return sum(numbers) if sign == "+" else numbers[0] - sum(numbers[1:])


def canonical_sum(numbers: Sequence[int], sign: str) -> str:
    """A sum as the fact that it is: 3 + 4 and 4 + 3 are one."""
    return f" {sign} ".join(map(str, sorted(numbers, reverse=sign == "-")))


def pair(rng: np.random.Generator, low: int, high: int, sign: str, answer: int) -> list[int] | None:
    """Two numbers from ``low`` to ``high`` whose sum or difference is the answer, if any are."""
    if sign == "+":
        first, last = max(low, answer - high), min(high, answer - low)
    else:
        first, last = low + answer, high
    if answer < 0 or first > last:
        return None
    summand = int(rng.integers(first, last + 1))
    return [summand, answer - summand] if sign == "+" else [summand, summand - answer]


def chain(rng: np.random.Generator, terms: int, total: int) -> list[int] | None:
    """So many numbers from 1 to 9 with that sum, if there are any, in random order."""
    rows = _chains(terms).get(total)
    return draw(rng, rows[int(rng.integers(len(rows)))], terms) if rows else None


def nearby_values(
    rng: np.random.Generator,
    start: int,
    possible: Callable[[int], bool],
    step: int | None = None,
) -> list[int]:
    """``start`` and three values at most four steps away from it."""
    # A step is 1, and 10 or 100 for larger numbers. Values that begin with different digits are
    # preferred, then those that are as long: what reads only the first token can use them.
    step = step or (1 if start < 20 else 10 if start < 200 else 100 if start < 2000 else 1000)
    offsets = [sign * step * size for size in (1, 2, 3, 4) for sign in (1, -1)]
    values = [start + offset for offset in draw(rng, offsets, 8)]
    return _distinct_first_digits(
        start, [number for number in values if number >= 0 and possible(number)]
    )


def distinct_values(rng: np.random.Generator, start: int, values: Sequence[int]) -> list[int]:
    """``start`` and three of the values, which begin with different digits as far as possible."""
    return _distinct_first_digits(
        start, [number for number in draw(rng, values, len(values)) if number != start]
    )


def _distinct_first_digits(start: int, values: Sequence[int]) -> list[int]:
    """``start`` and the first values whose first digits are new, before any others."""
    chosen, left = [start], list(values)
    while left and len(chosen) < 4:
        begun, length = {str(number)[0] for number in chosen}, len(str(start))
        best = min(left, key=lambda number: (str(number)[0] in begun, len(str(number)) != length))
        chosen.append(best)
        left.remove(best)
    return chosen


@cache
def _chains(terms: int) -> dict[int, list[tuple[int, ...]]]:
    """All rows of so many numbers from 1 to 9, whatever their order, by their sum."""
    rows: dict[int, list[tuple[int, ...]]] = {}
    for row in combinations_with_replacement(range(1, 10), terms):
        rows.setdefault(sum(row), []).append(row)
    return rows


def arithmetic(
    seed: int = 0,
    *,
    digits: Sequence[int] = (1, 2),
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Sums and differences of two numbers of equally many digits; the group says which."""
    require(set(digits) <= {1, 2, 3, 4} and bool(digits), f"Digits are 1 to 4, not {digits}")
    rng = generator(seed, "arithmetic")
    kinds = [(n, "+-"[(index + turn) % 2]) for turn in (0, 1) for index, n in enumerate(digits)]

    def make(turn: int) -> list[Item]:
        n, sign = kinds[turn % len(kinds)]
        low, high = span(n)
        drawn = sorted((int(integer) for integer in rng.integers(low, high, 2)), reverse=True)
        start = value(drawn, sign)

        def numbers(answer: int) -> list[int] | None:
            return pair(rng, low, high - 1, sign, answer)

        group = f"{n}-digit {'sum' if sign == '+' else 'difference'}"
        if n == 1:
            options = distinct_values(rng, start, range(19 if sign == "+" else 10))
        else:
            options = nearby_values(rng, start, lambda answer: numbers(answer) is not None)
        return _block(rng, options, numbers, sign, group)

    return _task(rng, "arithmetic", "sums and differences of two numbers", make, n_items, n_fewshot)


def sum_chain(
    seed: int = 0,
    *,
    terms: Sequence[int] = (3, 4),
    n_items: int = N_ITEMS,
    n_fewshot: int = 4,
) -> Task:
    """Sums of several one-digit numbers; the group is their number."""
    # In every other pair of blocks the options begin with different digits as far as sums allow.
    require(min(terms) >= 3 and max(terms) <= 12, f"A chain has 3 to 12 terms, not {terms}")
    rng = generator(seed, "sum-chain")

    def make(turn: int) -> list[Item]:
        n = terms[turn % len(terms)]
        start = int(rng.integers(1, 10, n).sum())
        if turn // len(terms) % 2:
            options = nearby_values(rng, start, lambda answer: n <= answer <= 9 * n, step=1)
        else:
            options = distinct_values(rng, start, range(n, 9 * n + 1))
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

    by_cluster = attrgetter("cluster")  # 3 + 4 and 4 + 3 are one question

    def make_examples(taken: Sequence[Item] = ()) -> list[Item]:
        built: list[Item] = []
        for turn in range(n_fewshot):
            others = [*built, *taken]
            built += balanced_drafts(lambda n, turn=turn: make(turn + n)[:1], 1, others, by_cluster)
        return built

    def corrupt_all(drafts: Sequence[Item]) -> list[Item]:
        return [_corrupt(rng, draft) for draft in drafts]

    examples = make_examples()
    drafts = balanced_drafts(make, n_items, examples, by_cluster)
    items = settle(rng, name, corrupt_all(drafts))
    return suite(
        rng,
        name,
        "reasoning",
        description,
        items,
        corrupt_all(examples),
        lambda: corrupt_all(make_examples(items)),
        generate=_GENERATE,
        template=_TEMPLATE,
    )


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
        choices=_choices(answer, options),
        group=group,
        cluster=canonical_sum(numbers, sign),
    )


def _choices(answer: int, options: Sequence[int]) -> tuple[str, ...]:
    return tuple(map(str, (answer, *(option for option in options if option != answer))))


def _corrupt(rng: np.random.Generator, item: Item) -> Item:
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


def word_problems(
    seed: int = 0, *, largest: int = 9, n_items: int = N_ITEMS, n_fewshot: int = 3
) -> Task:
    """One sum or difference told as a story; few-shot answers are worked out in a sentence."""
    # Chain of thought (Wei et al. 2022, arXiv:2201.11903).
    require(largest >= 5, f"The largest number is 5 or more, not {largest}")
    rng = generator(seed, "word-problems")
    shown_names, names = halves(rng, data("words")["names"], n_fewshot)
    shown_things, things = halves(rng, data("words")["things"], n_fewshot)

    def make_examples(people: Sequence[str], story_things: Sequence[str]) -> list[list[Item]]:
        alone = enumerate(zip(people, story_things, strict=True))
        return [_stories(rng, turn, largest, [name], [thing]) for turn, (name, thing) in alone]

    def others() -> list[Item]:
        blocks: list[list[Item]] = [[]]
        while not all(blocks):
            blocks = make_examples(
                draw(rng, shown_names, n_fewshot), draw(rng, shown_things, n_fewshot)
            )
        return [block[0] for block in blocks]

    examples = make_examples(shown_names, shown_things)
    drafts = balanced_drafts(lambda turn: _stories(rng, turn, largest, names, things), n_items)
    return suite(
        rng,
        "word-problems",
        "reasoning",
        "one-step word problems, answered by a worked-out sentence",
        drafts,
        [block[0] for block in examples],
        others,
        generate=GenerateSpec(("\n",), 28, "answer_is"),
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    )


def _stories(
    rng: np.random.Generator, turn: int, largest: int, names: Sequence[str], things: Sequence[str]
) -> list[Item]:
    """Four stories with the same options, of which each is right once."""
    # Sums and differences in turn.
    sign = "+-"[turn % 2]
    first, second = sorted(int(number) for number in rng.integers(2, largest + 1, 2))[::-1]

    def numbers(answer: int) -> list[int] | None:
        return pair(rng, 2, largest, sign, answer)

    start = value([first, second], sign)
    offsets = draw(rng, [1, -1, 2, -2, 3, -3], 6)
    options = [start, *(start + offset for offset in offsets if numbers(start + offset))][:4]
    drawn = [numbers(answer) for answer in draw(rng, options, len(options))]
    return [_story(rng, two, sign, options, names, things) for two in drawn if two]


def _story(
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
    story = draw(rng, data("passages")["stories"][sign], 1)[0]
    return Item(
        id="",
        question=story.format(name=name, things=thing, a=first, b=second),
        answer=str(answer),
        choices=_choices(answer, options),
        worked=f"{first} {sign} {second} = {answer}. The answer is {answer}.",
        group="sum" if sign == "+" else "difference",
        cluster=canonical_sum(numbers, sign),
    )
