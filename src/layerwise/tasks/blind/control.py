"""Guessing without the question: the table of all guessers, and the one of a run.

It is fitted on all items of a task, also on those that are not asked, for what gives answers away
can be known without the model. What is chosen among many, be it a rule or a guesser, is never
measured where it was chosen. Whether a model is better is tested in ``stats.signals``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from layerwise.stats import exact_interval, holm
from layerwise.tasks._encoding import Tokenizer
from layerwise.tasks.extractors import extractor
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

from .features import features_of, mentions_of
from .guessers import Guesser, in_words, record, simple_guessers, weighed
from .options import Options, options_of, quarters_of


@dataclass(frozen=True)
class BestBlind:
    """What the best question-blind guesser gets right, item by item.

    Attributes:
        task: the task's name.
        items: item ids, in the task's order.
        right: whether the guesser is right.
        guessers: for each quarter of the items, the guesser that was best on the other three and
            answers this one.
        rules: what they were fitted to.
    """

    task: str
    items: tuple[str, ...]
    right: Bool[np.ndarray, " items"]
    guessers: tuple[str, ...]
    rules: str

    @property
    def accuracy(self) -> float:
        """Share of right guesses, from 0 to 1."""
        return float(self.right.mean())


def blind_guesses(task: Task, *, tokenizer: Tokenizer | None = None) -> pd.DataFrame:
    """Accuracies of question-blind guessers.

    They go by the options alone: position, length, value, alphabetical order, nearness to a
    constant or to the options' mean, likeness to the other options, how often an option is
    offered, and which texts, words and characters were right elsewhere. Some know the context,
    too, and go by where it mentions the options. Whatever can be tuned is tuned on one half of
    the items and measured on the other one.

    Args:
        task: a task whose items all have options.
        tokenizer: lets guessers count an option's tokens, too.

    Returns:
        A row for each guesser, the best first: ``guesser``, ``sees``, ``rule`` (what it was
        tuned to in either half), ``n`` (items), ``accuracy`` with its exact 95 % interval
        (``low``, ``high``), ``chance`` (one over the number of options, averaged), ``p`` (exact,
        one-sided: as many right by guessing uniformly among the options), ``p_holm`` (corrected
        over the guessers).

    Raises:
        UserError: an item has no options.

    Example:
        >>> from layerwise.tasks import blind_guesses, load_task
        >>> table = blind_guesses(load_task("kv-words"))
        >>> bool((table["p_holm"] < 0.05).any())
        False
    """
    options = options_of(task)
    rows = []
    for guesser in guessers_of(options, tokenizer, context=True):
        right, rule = cross_fitted(options, guesser)
        hits, n = int(right.sum()), len(right)
        interval = exact_interval(hits, n)
        rows.append(
            {
                "guesser": guesser.name,
                "sees": guesser.sees,
                "rule": rule,
                "n": n,
                "accuracy": hits / n,
                "low": interval.low,
                "high": interval.high,
                "chance": float((1 / options.counts).mean()),
                "p": p_uniform(hits, 1 / options.counts),
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].to_numpy(dtype=float))
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def best_blind(task: Task, *, tokenizer: Tokenizer | None = None) -> BestBlind:
    """Right answers of the best guesser that sees only the options, item by item.

    For each quarter of the items the guesser is chosen on the other three, by how well it does
    there when it is tuned and measured on different quarters; so choosing the best of many does
    not make it look better than it is.

    Args:
        task: a task whose items all have options.
        tokenizer: lets guessers count an option's tokens, too.

    Raises:
        UserError: an item has no options.

    Example:
        >>> from layerwise.tasks import best_blind, load_task
        >>> best_blind(load_task("kv-words")).right.shape
        (200,)
    """
    options = options_of(task)
    right, chosen = best_of(options, guessers_of(options, tokenizer, context=False))
    names = tuple(name for name, _ in chosen)
    return BestBlind(task.name, options.items, right, names, "; ".join(r for _, r in chosen))


def guessers_of(
    options: Options, tokenizer: Tokenizer | None, *, context: bool
) -> Sequence[Guesser]:
    """All guessers, of which some know the context if that is asked for."""
    features = features_of(options, tokenizer)
    return [
        *simple_guessers(options, features, mentions_of(options) if context else {}),
        record(options, "texts", lambda text: (text,)),
        record(options, "words", str.split),
        record(options, "characters", iter),
        weighed(options, features),
    ]


def p_uniform(hits: int, shares: Float[np.ndarray, " items"]) -> float:
    """P(``hits`` or more are right) if each item is right with its own probability."""
    from scipy.stats import binom, poisson_binom

    if np.ptp(shares) == 0:
        return float(binom.sf(hits - 1, len(shares), shares[0]))
    return float(np.clip(poisson_binom.sf(hits - 1, shares), 0.0, 1.0))


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
    for item in items:
        right = {item.answer, *item.aliases}.intersection(item.choices)
        if len(item.choices) < 2 or right != {item.answer}:
            return None
    options = options_of(replace(task, items=items))
    choose = best_afterwards if alone else best_of
    right, chosen = choose(options, guessers_of(options, tokenizer, context=False))
    p = p_uniform(int(right.sum()), 1 / options.counts)
    # The guesser that most quarters are answered by, with a rule of it.
    name = _first_of([name for name, _ in chosen])
    rule = in_words(name, _first_of([rule for other, rule in chosen if other == name]))
    by_id = dict(zip(options.items, right.tolist(), strict=True))
    return Guesses(by_id, rule, alone or p < ABOVE_CHANCE)


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
    by_id = dict(zip((item.id for item in items), right.tolist(), strict=True))
    return Guesses(by_id, f"saying {_first_of(given)!r}", alone or bool(p < ABOVE_CHANCE))


def _first_of(texts: Sequence[str]) -> str:
    """The most frequent text; of equally frequent ones the first in the alphabet."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))


# Which items are right, and for each part the guesser's name and its rule.
Fitted = tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]


def _by_part(
    n_items: int,
    parts: Iterable[Bool[np.ndarray, " items"]],
    guesser_of: Callable[[int], Guesser],
) -> Fitted:
    """Each part of the items by the rule that its guesser chooses on all others."""
    right, rules = np.zeros(n_items, dtype=bool), []
    for number, part in enumerate(parts):
        guesser = guesser_of(number)
        own, rule = guesser.fit(~part)
        right[part] = own[part]
        rules.append((guesser.name, rule))
    return right, tuple(rules)


def _quarters(options: Options) -> list[Bool[np.ndarray, " items"]]:
    return [options.quarter == quarter for quarter in range(4)]


def cross_fitted(options: Options, guesser: Guesser) -> tuple[Bool[np.ndarray, " items"], str]:
    """A guesser on all items, each half with the rule that was best on the other."""
    halves = [options.quarter % 2 == half for half in (0, 1)]
    right, rules = _by_part(len(options.items), halves, lambda _: guesser)
    return right, "; ".join(dict.fromkeys(rule for _, rule in rules))


def best_of(options: Options, guessers: Sequence[Guesser]) -> Fitted:
    """For each quarter, the guesser that is best on the other three (itself cross-fitted)."""
    counts = np.array([_right_elsewhere(options, guesser) for guesser in guessers])
    best = counts.argmax(axis=0)
    return _by_part(len(options.items), _quarters(options), lambda at: guessers[int(best[at])])


def best_afterwards(options: Options, guessers: Sequence[Guesser]) -> Fitted:
    """The guesser that is right most often when each quarter's rule is chosen on the others."""
    # It is chosen by what it does on all items, so that it looks better than it is, where there are
    # few items by a lot; but no guesser that was tried is better.
    every = (
        _by_part(len(options.items), _quarters(options), lambda _, one=guesser: one)
        for guesser in guessers
    )
    return max(every, key=lambda fitted: int(fitted[0].sum()))


def _right_elsewhere(options: Options, guesser: Guesser) -> Int[np.ndarray, " quarters"]:
    """For each quarter how many of the others' items are right, each fitted without both."""
    counts, quarters = np.zeros(4, dtype=int), _quarters(options)
    for first, second in combinations(range(4), 2):
        right, _ = guesser.fit(~(quarters[first] | quarters[second]))
        counts[[first, second]] += [right[quarters[second]].sum(), right[quarters[first]].sum()]
    return counts
