"""Guessers: with a rule to choose (a place, a rank, a constant to be near to), or with weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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


Fit = Callable[[Bool[np.ndarray, " items"]], tuple[Bool[np.ndarray, " items"], str]]


@dataclass(frozen=True)
class Guesser:
    """A family of rules that never see a question."""

    name: str
    sees: Sees  # what it looks at
    # Chooses the rule that is best on some items; returns which of all it gets right, and the rule.
    fit: Fit


def _of_rules(
    name: str, sees: Sees, rules: Sequence[str], right: Bool[np.ndarray, "rules items"]
) -> Guesser:
    """A guesser with a list of rules: the one that is right most often, of equal ones the first."""

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        best = int(right[:, train].sum(axis=1).argmax())
        return right[best], rules[best]

    return Guesser(name, sees, fit)


def right_by_rank(options: Options, feature: Feature) -> Bool[np.ndarray, "rules items"]:
    """Whether the k-th option by a feature is right, from the low end, then from the high one."""
    low = ranks(options, feature)[np.arange(len(options.gold)), options.gold]
    places = np.arange(options.offered.shape[1])
    # An item for which the feature says nothing, or that has no such option, is left to chance.
    known = ~np.isnan(feature).all(axis=1) & (places[:, None] < options.counts)
    by_chance = options.pick(np.zeros(options.offered.shape))
    right = [np.where(known, rank == places[:, None], by_chance)
             for rank in (low, options.counts - 1 - low)]  # fmt: skip
    return np.concatenate(right)


def _by_rank(
    options: Options,
    name: str,
    feature: Feature,
    ends: tuple[str, str] = (" from the low end", " from the high end"),
    sees: Sees = "options",
) -> Guesser:
    """Always the k-th option in the order of a feature; equal ones are in random order."""
    places = range(1, options.offered.shape[1] + 1)
    rules = [f"number {place}{end}" for end in ends for place in places]
    return _of_rules(name, sees, rules, right_by_rank(options, feature))


def _by_constant(options: Options, name: str, feature: Feature) -> Guesser:
    """The option nearest to a constant, any that the options themselves have (or 100 of them)."""
    known = feature[np.isfinite(feature)]
    values = np.unique(known)
    if len(values) > _MOST_CONSTANTS:
        values = np.unique(np.quantile(known, np.linspace(0, 1, _MOST_CONSTANTS)))
    right = np.array([options.pick(-np.abs(feature - value)) for value in values])
    rules = [f"nearest to {value:g}" for value in values]
    return _of_rules(f"{name}, nearest to a constant", "options", rules, right)


def ranks(options: Options, feature: Feature) -> Int[np.ndarray, "items options"]:
    """Place of each option in the order of a feature, from 0; those without a value come last."""
    order = np.lexsort((options.jitter, feature, ~options.offered), axis=1)
    return order.argsort(axis=1)


def simple_guessers(
    options: Options, features: Mapping[str, Feature], mentions: Mapping[str, Feature]
) -> Iterator[Guesser]:
    """All guessers with a rule to choose that features allow."""
    places = np.where(options.offered, np.arange(options.offered.shape[1]), np.nan)
    yield _by_rank(options, "position", places, ("", " from the end"))
    for name, feature in features.items():
        yield _by_rank(options, name, feature)
    for name in ("number", "characters"):
        if name in features:
            yield _by_constant(options, name, features[name])
    if "number" in features:
        odd = np.where(np.isnan(features["number"]), 0.0, features["number"] % 2)
        right = np.array([options.pick(-odd), options.pick(odd)])
        yield _of_rules("parity", "options", ["even", "odd"], right)
    for name, feature in mentions.items():
        yield _by_rank(options, name, feature, sees="options and context")


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


_MOST_FITTED = 20_000
# Only the first places have weights, so that their number does not grow with the options.
_MOST_PLACES = 32


def record(options: Options, of: str, parts: Callable[[str], Iterable[str]]) -> Guesser:
    """A naive Bayes guesser over the parts of options."""
    # A part's weight is the logarithm of how often options with it were right, over how often they
    # would be if each of an item's options were right with the same probability; one is added to
    # both.
    from scipy.sparse import csr_array

    # Which option (rows, those that are offered) has which part (columns).
    known: dict[str, int] = {}
    columns, ends = [], [0]
    for text in (text for row in options.texts for text in row):
        own = dict.fromkeys(parts(text.casefold()))
        columns += [known.setdefault(part, len(known)) for part in own]
        ends.append(len(columns))
    shape = (len(ends) - 1, len(known))
    matrix = csr_array((np.ones(len(columns)), columns, ends), shape=shape)
    rows = np.flatnonzero(options.offered.ravel())
    counts = np.repeat(options.counts, options.counts)
    gold = np.repeat(options.gold, options.counts) == rows % options.offered.shape[1]

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        trained = np.repeat(train, options.counts)
        right = matrix.T @ (trained & gold).astype(float)
        expected = matrix.T @ (trained / counts)
        scores = np.zeros(options.offered.size)
        scores[rows] = matrix @ np.log((right + 1) / (expected + 1))
        return options.pick(scores.reshape(options.offered.shape)), "most often right"

    return Guesser(f"record of {of}", "options", fit)


def weighed(options: Options, features: Mapping[str, Feature]) -> Guesser:
    """All features together, weighed by a conditional logit model."""
    # P(option) is proportional to exp(w x) over an item's options (McFadden 1974, in Zarembka,
    # *Frontiers in Econometrics*), w by maximum likelihood with a ridge penalty |w|^2 / 2.
    inputs = weighed_inputs(options, features)

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        rows = np.flatnonzero(train)[:_MOST_FITTED]
        weights = conditional_logit(inputs[rows], options.offered[rows], options.gold[rows])
        return options.pick(inputs @ weights), "weights"

    return Guesser("all features weighed", "options", fit)


def weighed_inputs(
    options: Options, features: Mapping[str, Feature]
) -> Float[np.ndarray, "items options columns"]:
    """Of each feature the rank, how far that is from the middle, and the standard score."""
    width = options.offered.shape[1]
    columns = [np.broadcast_to(np.arange(width) == place, options.offered.shape) * 1.0
               for place in range(min(width, _MOST_PLACES))]  # fmt: skip
    for feature in features.values():
        filled = np.where(np.isfinite(feature), feature, np.nan)
        known = np.isfinite(filled).any(axis=1, keepdims=True)
        centred = ranks(options, feature) - (options.counts[:, None] - 1) / 2
        columns += [centred * known, np.abs(centred) * known, _standard(filled)]
    return np.stack([np.where(options.offered, column, 0.0) for column in columns], axis=-1)


def conditional_logit(
    x: Float[np.ndarray, "items options columns"],
    offered: Bool[np.ndarray, "items options"],
    gold: Int[np.ndarray, " items"],
    ridge: float = 1.0,
) -> Float[np.ndarray, " columns"]:
    """Weights of a conditional logit model (McFadden 1974), by penalized maximum likelihood."""
    from scipy.optimize import minimize

    each = np.arange(len(x))

    def logs(weights: Float[np.ndarray, " columns"]) -> Float[np.ndarray, "items options"]:
        logits = np.where(offered, x @ weights, -np.inf)
        logits -= logits.max(axis=1, keepdims=True, initial=-1e9)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def loss(weights: Float[np.ndarray, " columns"]) -> tuple[float, Float[np.ndarray, " columns"]]:
        of_shares = logs(weights)
        value = ridge * weights @ weights / 2 - of_shares[each, gold].sum()
        missed = np.exp(of_shares)
        missed[each, gold] -= 1
        return float(value), np.einsum("io,ioc->c", missed, x) + ridge * weights

    def curvature(weights: Float[np.ndarray, " columns"]) -> Float[np.ndarray, "columns columns"]:
        chosen = np.exp(logs(weights))[..., None] * x
        mean = chosen.sum(axis=1)
        inputs, weighed = (array.reshape(-1, x.shape[2]) for array in (x, chosen))
        return inputs.T @ weighed - mean.T @ mean + ridge * np.eye(x.shape[2])

    # Few steps: each other step of a quasi-Newton search waits for threads that have little to do.
    start = np.zeros(x.shape[2])
    return minimize(loss, start, jac=True, hess=curvature, method="trust-exact").x


def _standard(feature: Feature) -> Feature:
    """Standard scores within each item, at most 3 in size; 0 where there is nothing to score."""
    known = np.isfinite(feature)
    n = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = np.where(known, feature, 0).sum(axis=1, keepdims=True) / n
    off = np.where(known, feature - mean, 0)
    spread = np.sqrt((off**2).sum(axis=1, keepdims=True) / n)
    return np.clip(off / np.where(spread > 0, spread, 1), -3, 3)
