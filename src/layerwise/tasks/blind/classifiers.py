"""Guessers with weights, fitted by scikit-learn: naive Bayes, and a conditional logit model.

Both see the options alone. Guessers with a rule to choose are in ``guessers``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .features import Feature
from .guessers import Guesser, ranks
from .options import TaskOptions

_MOST_FITTED = 20_000
# Only the first places have weights, so that their number does not grow with the options.
_MOST_PLACES = 32


def naive_bayes_guesser(
    options: TaskOptions, of: str, parts: Callable[[str], Iterable[str]]
) -> Guesser:
    """Bernoulli naive Bayes of the right option, from its parts (its words, its characters)."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.naive_bayes import BernoulliNB

    # A row for each option that is offered, a column for each part.
    texts = [text for row in options.texts for text in row]
    has_part: Any = DictVectorizer().fit_transform(
        [dict.fromkeys(parts(text.casefold()), 1) for text in texts]
    )
    item = np.nonzero(options.offered)[0]
    right = (np.arange(options.offered.shape[1]) == options.gold[:, None])[options.offered]
    # An item's wrong options together weigh as much as its right one: a part that was never seen
    # then speaks neither for an option nor against it, and long options are not preferred.
    weights = np.where(right, 1, 1 / (options.counts - 1)[item])

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        scores, rows = np.zeros(options.offered.shape), train[item]
        if rows.any() and has_part.shape[1]:
            bayes: Any = BernoulliNB().fit(has_part[rows], right[rows], weights[rows])
            wrong_log, right_log = bayes.predict_joint_log_proba(has_part).T
            scores[options.offered] = right_log - wrong_log
        return options.pick(scores), "most often right"

    return Guesser(f"naive Bayes of {of}", "options", fit)


def conditional_logit_guesser(options: TaskOptions, features: Mapping[str, Feature]) -> Guesser:
    """All features together: the option that a conditional logit model prefers."""
    inputs = conditional_logit_inputs(options, features)

    def fit(train: Bool[np.ndarray, " items"]) -> tuple[Bool[np.ndarray, " items"], str]:
        rows = np.flatnonzero(train)[:_MOST_FITTED]
        weights = conditional_logit(inputs[rows], options.offered[rows], options.gold[rows])
        return options.pick(inputs @ weights), "weights"

    return Guesser("conditional logit", "options", fit)


def conditional_logit_inputs(
    options: TaskOptions, features: Mapping[str, Feature]
) -> Float[np.ndarray, "items options columns"]:
    """Of each feature the rank, how far that is from the middle, and the standard score."""
    width = options.offered.shape[1]
    columns = [np.broadcast_to(np.arange(width) == place, options.offered.shape) * 1.0
               for place in range(min(width, _MOST_PLACES))]  # fmt: skip
    for feature in features.values():
        filled = np.where(np.isfinite(feature), feature, np.nan)
        known = np.isfinite(filled).any(axis=1, keepdims=True)
        centred = ranks(options, feature) - (options.counts[:, None] - 1) / 2
        columns += [centred * known, np.abs(centred) * known, _standard_scores(filled)]
    return np.stack([np.where(options.offered, column, 0.0) for column in columns], axis=-1)


def conditional_logit(
    x: Float[np.ndarray, "items options columns"],
    offered: Bool[np.ndarray, "items options"],
    gold: Int[np.ndarray, " items"],
) -> Float[np.ndarray, " columns"]:
    """Weights of a conditional logit model, fitted by logistic regression on pairs of options.

    The model: an option is right with a probability proportional to exp(w x) over its item's
    options (McFadden 1974, in Zarembka, *Frontiers in Econometrics*). So of the right option and
    another one, the right one is right with the logistic function of w times the difference of
    their features, and each such pair is a row of a logistic regression. For two options this is
    the model's likelihood itself; for more it is a composite one, with the same w behind it. The
    pairs of an item weigh 2 / options, which gives it the curvature of the full likelihood at w =
    0. The penalty is |w|^2 / 2.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    each = np.arange(len(gold))
    wrong = offered.copy()
    wrong[each, gold] = False
    differences = (x[each, gold][:, None] - x)[wrong]
    if len(differences) < 2:
        return np.zeros(x.shape[2])
    weights = np.broadcast_to(2 / offered.sum(axis=1, keepdims=True), offered.shape)[wrong]
    # Every other pair is turned over: a regression needs both outcomes.
    signs = np.resize([1, -1], len(differences))
    model = LogisticRegression(fit_intercept=False, solver="newton-cholesky")
    with warnings.catch_warnings():
        # Where no step of Newton's helps any more, it says so and goes on by L-BFGS.
        warnings.filterwarnings("ignore", "Line search of Newton solver", ConvergenceWarning)
        fitted = model.fit(signs[:, None] * differences, signs, sample_weight=weights)
    return fitted.coef_[0]


def _standard_scores(feature: Feature) -> Feature:
    """Standard scores within each item, at most 3 in size; 0 where there is nothing to score."""
    known = np.isfinite(feature)
    n = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = np.where(known, feature, 0).sum(axis=1, keepdims=True) / n
    off = np.where(known, feature - mean, 0)
    spread = np.sqrt((off**2).sum(axis=1, keepdims=True) / n)
    return np.clip(off / np.where(spread > 0, spread, 1), -3, 3)
