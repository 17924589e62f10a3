"""Guessers with a rule to choose: a place, a rank, or a constant to be near to.

Those with weights are in ``classifiers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from .features import Feature
from .options import TaskOptions

Sees = Literal["options", "options and context"]
_MOST_CONSTANTS = 100
# Features that are orders, with what stands behind "option"; and those that are no numbers of.
_ORDERS = {
    "position": "",
    "alphabetical order": " in alphabetical order",
    "first mention in the context": " by its first mention in the context",
    "last mention in the context": " by its last mention in the context",
}
_MEASURES = {
    "number": "value",
    "distance from the options' mean": "distance from the options' mean",
    "distance from the options' median": "distance from the options' median",
}


Fit = Callable[[Bool[np.ndarray, " items"]], tuple[Bool[np.ndarray, " items"], str]]


@dataclass(frozen=True)
class Guesser:
    """A family of rules that never see a question."""

    name: str
    sees: Sees  # what it looks at
    # Fits on some items; returns which of all items are guessed right, and the rule it found.
    fit: Fit


def _rule_guesser(
    name: str, sees: Sees, rules: Sequence[str], right: Bool[np.ndarray, "rules items"]
) -> Guesser:
    """A guesser with a list of rules: the one that is right most often, of equal ones the first."""

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        best = int(right[:, train].sum(axis=1).argmax())
        return right[best], rules[best]

    return Guesser(name, sees, fit)


def right_by_rank(options: TaskOptions, feature: Feature) -> Bool[np.ndarray, "rules items"]:
    """True where the k-th option by a feature is right, from the low end, then from the high."""
    low = ranks(options, feature)[np.arange(len(options.gold)), options.gold]
    places = np.arange(options.offered.shape[1])
    # An item for which the feature says nothing, or that has no such option, is left to chance.
    known = ~np.isnan(feature).all(axis=1) & (places[:, None] < options.counts)
    by_chance = options.pick(np.zeros(options.offered.shape))
    right = [np.where(known, rank == places[:, None], by_chance)
             for rank in (low, options.counts - 1 - low)]  # fmt: skip
    return np.concatenate(right)


def _rank_guesser(
    options: TaskOptions,
    name: str,
    feature: Feature,
    ends: tuple[str, str] = (" from the low end", " from the high end"),
    sees: Sees = "options",
) -> Guesser:
    """Always the k-th option in the order of a feature; equal ones are in random order."""
    places = range(1, options.offered.shape[1] + 1)
    rules = [f"number {place}{end}" for end in ends for place in places]
    return _rule_guesser(name, sees, rules, right_by_rank(options, feature))


def _constant_guesser(options: TaskOptions, name: str, feature: Feature) -> Guesser:
    """The option nearest to a constant, any that the options themselves have (or 100 of them)."""
    known = feature[np.isfinite(feature)]
    values = np.unique(known)
    if len(values) > _MOST_CONSTANTS:
        values = np.unique(np.quantile(known, np.linspace(0, 1, _MOST_CONSTANTS)))
    right = np.array([options.pick(-np.abs(feature - value)) for value in values])
    rules = [f"nearest to {value:g}" for value in values]
    return _rule_guesser(f"{name}, nearest to a constant", "options", rules, right)


def ranks(options: TaskOptions, feature: Feature) -> Int[np.ndarray, "items options"]:
    """Place of each option in the order of a feature, from 0; those without a value come last."""
    order = np.lexsort((options.jitter, feature, ~options.offered), axis=1)
    return order.argsort(axis=1)


def rule_guessers(
    options: TaskOptions, features: Mapping[str, Feature], mentions: Mapping[str, Feature]
) -> Iterator[Guesser]:
    """All guessers with a rule to choose that features allow."""
    places = np.where(options.offered, np.arange(options.offered.shape[1]), np.nan)
    yield _rank_guesser(options, "position", places, ("", " from the end"))
    for name, feature in features.items():
        yield _rank_guesser(options, name, feature)
    for name in ("number", "characters"):
        if name in features:
            yield _constant_guesser(options, name, features[name])
    if "number" in features:
        odd = np.where(np.isnan(features["number"]), 0.0, features["number"] % 2)
        right = np.array([options.pick(-odd), options.pick(odd)])
        yield _rule_guesser("parity", "options", ["even", "odd"], right)
    for name, feature in mentions.items():
        yield _rank_guesser(options, name, feature, sees="options and context")


def describe_rule(name: str, rule: str) -> str:
    """A guesser's rule in words, to stand after "by"."""
    of, constant, _ = name.partition(", nearest to a constant")
    if constant:
        thing = "number" if of == "number" else f"option with a number of {of}"
        return f"choosing the {thing} {rule}"
    if name == "parity":
        return f"choosing the {rule} number"
    if name.startswith("naive Bayes"):
        return f"choosing what was right most often in other items ({name})"
    if rule == "weights":
        return "weighing length, value, order and likeness of the options"
    place, _, end = rule.removeprefix("number ").partition(" from the ")
    number = int(place)
    if name in _ORDERS:
        nth = _ordinal(number)
        if end in ("end", "high end"):
            nth = "last" if number == 1 else f"{nth} to last"
        return f"choosing the {nth} option{_ORDERS[name]}"
    nth = "" if number == 1 else f"{_ordinal(number)} "
    most = "lowest" if end == "low end" else "highest"
    return f"choosing the option with the {nth}{most} {_MEASURES.get(name, f'number of {name}')}"


def _ordinal(number: int) -> str:
    few = ("first", "second", "third", "fourth", "fifth")
    if number <= len(few):
        return few[number - 1]
    end = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number > 20 else "th"
    return f"{number}{end}"
