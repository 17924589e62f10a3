"""The question-blind guesser that a model is held against in a run.

It is fitted on all items of a task, also on those that are not asked, for what gives answers away
can be known without the model. Whether a model is better is tested in ``stats.signals``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from layerwise.tasks._encoding import Tokenizer
from layerwise.tasks.extractors import extractor
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

from .api import guessers_of, p_uniform
from .crossfit import best_afterwards, best_of
from .guessers import in_words
from .options import options_of, quarters_of

# Items that are enough to find what gives answers away; more only take longer.
_MOST_FITTED = 2000
# Below this p-value (one-sided, exact) a guesser counts as above chance; higher than is usual,
# since one that is taken for guessing is not held against the model (docs/statistics.md).
ABOVE_CHANCE = 0.1


@dataclass(frozen=True)
class Guesses:
    """Right answers of a question-blind guesser."""

    right: Mapping[str, bool]  # by item id, also of items that are not asked
    rule: str  # how it guesses, in words
    # Whether it is held against the model; one that is no better than chance is not, for chance is
    # held against it already.
    held: bool


def guesses(
    task: Task, protocol: str, *, tokenizer: Tokenizer | None = None, alone: bool = False
) -> Guesses | None:
    """The best guesser of what is right without the question, as a protocol asks."""
    # Where a model chooses among options, it sees the options alone (``best_blind``). Where it
    # writes its answer (``generate``) it is not shown any, and says what is most often right in
    # other items. Each quarter of the items is answered by what was best on the other three.
    items = (*task.items, *task.unasked[: max(0, _MOST_FITTED - len(task.items))])
    if protocol == "generate":
        return _most_frequent_answer(task, items, alone)
    if not all(map(_has_one_right_option, items)):
        return None
    options = options_of(replace(task, items=items))
    choose = best_afterwards if alone else best_of
    right, chosen = choose(options, guessers_of(options, tokenizer, context=False))
    p = p_uniform(int(right.sum()), 1 / options.counts)
    return _guesses(items, right, in_words(*_commonest(chosen)), alone or p < ABOVE_CHANCE)


def _has_one_right_option(item: Item) -> bool:
    right = {item.answer, *item.aliases}.intersection(item.choices)
    return len(item.choices) > 1 and right == {item.answer}


def _most_frequent_answer(task: Task, items: Sequence[Item], alone: bool) -> Guesses:
    from scipy.stats import binom

    normalise = extractor(task.generate.extractor).normalise
    answers = [normalise(item.answer) for item in items]
    quarter = quarters_of(items)
    right, given = np.zeros(len(items), dtype=bool), []
    for own in range(4):
        others = [answer for answer, place in zip(answers, quarter, strict=True) if place != own]
        guess = _first_of(others) if others else ""
        given += [guess] if (quarter == own).any() else []
        for at in np.flatnonzero(quarter == own).tolist():
            spelled = (items[at].answer, *items[at].aliases)
            right[at] = guess in map(normalise, spelled)
    p = binom.sf(int(right.sum()) - 1, len(items), task.chance.get("generate", 0.0))
    return _guesses(items, right, f"saying {_first_of(given)!r}", alone or bool(p < ABOVE_CHANCE))


def _guesses(
    items: Sequence[Item], right: Bool[np.ndarray, " items"], rule: str, counts: bool
) -> Guesses:
    by_id = dict(zip((item.id for item in items), right.tolist(), strict=True))
    return Guesses(by_id, rule, counts)


def _first_of(texts: Sequence[str]) -> str:
    """The most frequent text; of equally frequent ones the first in the alphabet."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))


def _commonest(chosen: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The guesser that most quarters are answered by, with a rule of it."""
    name = _first_of([name for name, _ in chosen])
    return name, _first_of([rule for other, rule in chosen if other == name])
