"""Guessers with a rule to choose: a place, a rank, a constant to be near to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from .features import Feature
from .options import Options

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


class Fitted(NamedTuple):
    """A guesser whose rule was chosen."""

    right: Bool[np.ndarray, " items"]  # whether it is right, for every item of the task
    rule: str  # the rule in words


@runtime_checkable
class Guesser(Protocol):
    """A family of rules that never see a question."""

    # name: what it goes by.
    # sees: what it looks at.

    @property
    def name(self) -> str:
        """What it goes by."""
        ...

    @property
    def sees(self) -> Sees:
        """What it looks at."""
        ...

    def fitted(self, train: Bool[np.ndarray, " items"]) -> Fitted:
        """Choose the rule that is best on the items of ``train``, and apply it to all."""
        ...


@dataclass(frozen=True)
class Rules:
    """A guesser that has a list of rules to choose from."""

    name: str  # what it goes by
    sees: Sees  # what it looks at
    rules: tuple[str, ...]  # the rules in words
    right: Bool[np.ndarray, "rules items"]  # whether each one is right

    def fitted(self, train: Bool[np.ndarray, " items"]) -> Fitted:
        """The rule that is right most often on ``train``; of equal ones the first."""
        best = int(self.right[:, train].sum(axis=1).argmax())
        return Fitted(self.right[best], self.rules[best])


def by_position(options: Options) -> Rules:
    """Always the option at one place, counted from the beginning or from the end."""
    places = np.where(options.offered, np.arange(options.offered.shape[1]), np.nan)
    return by_rank(options, "position", places, ("", " from the end"))


def by_rank(
    options: Options,
    name: str,
    feature: Feature,
    ends: tuple[str, str] = (" from the low end", " from the high end"),
    sees: Sees = "options",
) -> Rules:
    """Always the k-th option in the order of a feature; equal ones are in random order."""
    low = ranks(options, feature)[np.arange(len(options.gold)), options.gold]
    places = np.arange(options.offered.shape[1])
    # An item for which the feature says nothing, or that has no such option, is left to chance.
    known = ~np.isnan(feature).all(axis=1) & (places[:, None] < options.counts)
    by_chance = options.pick(np.zeros(options.offered.shape))
    right = [np.where(known, rank == places[:, None], by_chance)
             for rank in (low, options.counts - 1 - low)]  # fmt: skip
    rules = tuple(f"number {place + 1}{end}" for end in ends for place in places.tolist())
    return Rules(name, sees, rules, np.concatenate(right))


def by_constant(options: Options, name: str, feature: Feature) -> Rules:
    """The option nearest to a constant, any that the options themselves have (or 100 of them)."""
    values = np.unique(feature[np.isfinite(feature)])
    if len(values) > _MOST_CONSTANTS:
        values = np.unique(np.quantile(feature[np.isfinite(feature)], _steps()))
    scored = ((f"nearest to {value:g}", -np.abs(feature - value)) for value in values)
    return _rules(options, f"{name}, nearest to a constant", "options", scored)


def by_parity(options: Options, numbers: Feature) -> Rules:
    """An even number, or an odd one."""
    odd = np.where(np.isnan(numbers), 0.0, numbers % 2)
    return _rules(options, "parity", "options", [("even", -odd), ("odd", odd)])


def ranks(options: Options, feature: Feature) -> Int[np.ndarray, "items options"]:
    """Place of each option in the order of a feature, from 0; those without a value come last."""
    order = np.lexsort((options.jitter, feature, ~options.offered), axis=1)
    return order.argsort(axis=1)


def simple_guessers(
    options: Options, features: Mapping[str, Feature], mentions: Mapping[str, Feature]
) -> Iterator[Rules]:
    """All guessers with a rule to choose that features allow."""
    yield by_position(options)
    for name, feature in features.items():
        yield by_rank(options, name, feature)
    for name in ("number", "characters"):
        if name in features:
            yield by_constant(options, name, features[name])
    if "number" in features:
        yield by_parity(options, features["number"])
    for name, feature in mentions.items():
        yield by_rank(options, name, feature, sees="options and context")


def _rules(
    options: Options,
    name: str,
    sees: Sees,
    scored: Iterable[tuple[str, Float[np.ndarray, "items options"]]],
) -> Rules:
    named = [(rule, options.pick(score)) for rule, score in scored]
    return Rules(
        name, sees, tuple(rule for rule, _ in named), np.array([right for _, right in named])
    )


def _steps() -> Float[np.ndarray, " steps"]:
    return np.linspace(0, 1, _MOST_CONSTANTS)


def in_words(name: str, rule: str) -> str:
    """How a guesser guesses, after "by"."""
    of, constant, _ = name.partition(", nearest to a constant")
    if constant:
        thing = "number" if of == "number" else f"option with a number of {of}"
        return f"choosing the {thing} {rule}"
    if name == "parity":
        return f"choosing the {rule} number"
    if name.startswith("record of "):
        return f"choosing what was right most often in other items ({name})"
    if rule == "weights":
        return "weighing length, value, order and likeness of the options"
    place, _, end = rule.removeprefix("number ").partition(" from the ")
    number = int(place)
    if name in _ORDERS:
        last = end in ("end", "high end")
        return f"choosing the {_place(number, last=last)} option{_ORDERS[name]}"
    nth = "" if number == 1 else f"{_ordinal(number)} "
    most = "lowest" if end == "low end" else "highest"
    return f"choosing the option with the {nth}{most} {_MEASURES.get(name, f'number of {name}')}"


def _place(number: int, *, last: bool) -> str:
    """A place in an order, from its beginning or from its end."""
    if not last:
        return _ordinal(number)
    return "last" if number == 1 else f"{_ordinal(number)} to last"


def _ordinal(number: int) -> str:
    few = ("first", "second", "third", "fourth", "fifth")
    if number <= len(few):
        return few[number - 1]
    end = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number > 20 else "th"
    return f"{number}{end}"
