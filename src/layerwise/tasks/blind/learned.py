"""Guessers that learn weights from the answers to other items.

Records of texts, words and characters, and all features weighed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from .features import Feature
from .guessers import Fitted, Sees, ranks
from .options import Options

_MOST_FITTED = 20_000
_RIDGE = 1.0
# Only the first places have weights, so that their number does not grow with the options.
_MOST_PLACES = 32


@dataclass(frozen=True)
class Record:
    """A naive Bayes guesser over the parts of options."""

    # A part's weight is the logarithm of how often options with it were right, over how often they
    # would be if each of an item's options were right with the same probability; one is added to
    # both.

    options: Options
    of: str  # what the parts are
    parts: Callable[[str], Iterable[str]]  # takes a text apart
    sees: Sees = "options"

    @property
    def name(self) -> str:
        """What it goes by."""
        return f"record of {self.of}"

    def fitted(self, train: Bool[np.ndarray, " items"]) -> Fitted:
        """Learn weights from ``train``."""
        options, parts = self.options, self._matrix
        rows = np.flatnonzero(options.offered.ravel())
        counts = np.repeat(options.counts, options.counts)
        trained = np.repeat(train, options.counts)
        gold = np.repeat(options.gold, options.counts) == rows % options.offered.shape[1]
        right = parts.T @ (trained & gold).astype(float)
        expected = parts.T @ (trained / counts)
        scores = np.zeros(options.offered.size)
        scores[rows] = parts @ np.log((right + 1) / (expected + 1))
        return Fitted(options.pick(scores.reshape(options.offered.shape)), "most often right")

    @cached_property
    def _matrix(self):
        """Which option (rows, those that are offered) has which part (columns); sparse."""
        from scipy.sparse import csr_array

        known: dict[str, int] = {}
        columns, ends = [], [0]
        for row in self.options.texts:
            for text in row:
                own = dict.fromkeys(self.parts(text.casefold()))
                columns += [known.setdefault(part, len(known)) for part in own]
                ends.append(len(columns))
        shape = (len(ends) - 1, len(known))
        return csr_array((np.ones(len(columns)), columns, ends), shape=shape)


@dataclass(frozen=True)
class Weighed:
    """All features together, weighed by a conditional logit model."""

    # P(option) is proportional to exp(w x) over an item's options (McFadden 1974, in Zarembka,
    # *Frontiers in Econometrics*), w by maximum likelihood with a ridge penalty |w|^2 / 2.

    options: Options
    features: Mapping[str, Feature]  # by name
    name: str = "all features weighed"
    sees: Sees = "options"

    def fitted(self, train: Bool[np.ndarray, " items"]) -> Fitted:
        """Learn weights from ``train``, or from its first 20,000 items."""
        options, rows = self.options, np.flatnonzero(train)[:_MOST_FITTED]
        weights = conditional_logit(self._inputs[rows], options.offered[rows], options.gold[rows])
        return Fitted(options.pick(self._inputs @ weights), "weights")

    @cached_property
    def _inputs(self) -> Float[np.ndarray, "items options columns"]:
        """Of each feature the rank, how far that is from the middle, and the standard score."""
        options = self.options
        width = options.offered.shape[1]
        columns = [np.broadcast_to(np.arange(width) == place, options.offered.shape) * 1.0
                   for place in range(min(width, _MOST_PLACES))]  # fmt: skip
        for feature in self.features.values():
            filled = np.where(np.isfinite(feature), feature, np.nan)
            known = np.isfinite(filled).any(axis=1, keepdims=True)
            centred = ranks(options, feature) - (options.counts[:, None] - 1) / 2
            columns += [centred * known, np.abs(centred) * known, _standard(filled)]
        return np.stack([np.where(options.offered, column, 0.0) for column in columns], axis=-1)


def conditional_logit(
    x: Float[np.ndarray, "items options columns"],
    offered: Bool[np.ndarray, "items options"],
    gold: Int[np.ndarray, " items"],
    ridge: float = _RIDGE,
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
