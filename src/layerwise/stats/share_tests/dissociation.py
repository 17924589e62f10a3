"""Tests item by item of whether two ways of asking need different layers, or one is only harder.

Items are right or wrong under two ways of scoring them, or with and without a passage.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import Clusters, design_effects, with_design_effect

ALPHA = 0.05


class ScoredAnswers(NamedTuple):
    """Right answers under one way of scoring."""

    intact: Bool[np.ndarray, " items"]  # of the intact model, by item
    changed: Bool[np.ndarray, "items layers"]  # with each layer changed
    # What a model that has lost everything still gets right, per layer, 0 to 1.
    luck: Float[np.ndarray, " layers"]


class Dissociation(NamedTuple):
    """Items lost under one of two ways of asking but not the other, per layer."""

    n_common: int  # items that the intact model gets right under both; the counts are of these
    # Lost under the first and kept under the second, per layer.
    only_first: Int[np.ndarray, " layers"]
    only_second: Int[np.ndarray, " layers"]  # lost under the second and kept under the first
    both: Int[np.ndarray, " layers"]  # lost under both
    # P-value of "the first loses no more than the second", one-sided.
    p_first: Float[np.ndarray, " layers"]
    p_second: Float[np.ndarray, " layers"]  # of "the second loses no more than the first", likewise

    @property
    def two_sided_p(self) -> Float[np.ndarray, " layers"]:
        """p-values of "both lose alike", of tests that are not corrected over the layers."""
        return np.minimum(2 * np.minimum(self.p_first, self.p_second), 1.0)

    @property
    def over_layers(self) -> Dissociation:
        """One-sided p-values with Holm's correction over the layers of a direction."""
        return self._replace(
            p_first=correct_family(self.p_first), p_second=correct_family(self.p_second)
        )

    @property
    def p(self) -> float:
        """p-value of "no layer matters more under the first, or none under the second"."""
        return float(max(self.p_first.min(initial=1.0), self.p_second.min(initial=1.0)))


class CrossedDissociation(NamedTuple):
    """A crossed double dissociation: two layers whose order reverses between ways of asking."""

    apart: Dissociation  # the counts and tests of single layers, not corrected over them
    p: float  # p-value of "two layers differ in how much they damage, not in what"
    # Of the two layers that reverse most clearly, the place of the one that loses more when asked
    # the first way; None if no two can.
    first: int | None = None
    second: int | None = None  # of the one that loses more asked the second way


def crossing_test(
    first: ScoredAnswers, second: ScoredAnswers, clusters: Clusters | None = None
) -> CrossedDissociation:
    """Test for two layers whose order of losses reverses between two ways of asking."""
    # A double dissociation excludes that one way of asking is harder, item by item. Where items
    # that are hard one way are easy the other, layers of one kind can still show one. But of two
    # such layers one loses more both ways. So one layer must lose more than the other the first
    # way, and less the second (crossed double dissociation: Dunn and Kirsner 1988, Psychol. Rev.
    # 95). Pairs are of layers that differ in either direction (Holm over the layers); of a pair the
    # larger of two exact p-values counts (Berger 1982, Technometrics 24), and pairs are corrected
    # by Bonferroni's method.
    apart = dissociation_tests(first, second, clusters)
    double = apart.over_layers
    more = [np.flatnonzero(p < ALPHA).tolist() for p in (double.p_first, double.p_second)]
    turned = {
        (left, other): max(
            _more_loss_p(first, left, other, clusters), _more_loss_p(second, other, left, clusters)
        )
        for left, other in product(*more)
    }
    if not turned:
        return CrossedDissociation(apart, 1.0)
    clearest = min(turned, key=lambda pair: turned[pair])
    p = max(double.p, min(len(turned) * turned[clearest], 1.0))
    return CrossedDissociation(apart, p, *clearest)


def _more_loss_p(answers: ScoredAnswers, layer: int, than: int, clusters: Clusters | None) -> float:
    """One-sided p-value of "one layer loses no more than another" under one way of asking."""
    one, other = (
        answers._replace(changed=answers.changed[:, [i]], luck=answers.luck[[i]])
        for i in (layer, than)
    )
    return float(dissociation_tests(one, other, clusters).p_first[0])


def dissociation_tests(
    first: ScoredAnswers, second: ScoredAnswers, clusters: Clusters | None = None
) -> Dissociation:
    """Tests of a double dissociation between two ways of scoring, by layer and not corrected."""
    # If one way is only harder, what a layer's loss makes wrong under the easier one is wrong under
    # the harder one, too: all layers differ in the same direction (Teuber 1955, Annu. Rev. Psychol.
    # 6; Dunn and Kirsner 1988). Each direction of each layer has a one-sided exact test on the
    # items that the intact model gets right under both. Items that only the first loses are tested
    # against those that only the second loses; those that it would have kept by luck, as a model
    # that has lost everything still guesses; and those that the first gains, as answers that flip
    # for nothing are gained as often as lost. With k against it and a luck of g under the second,
    # the count is binomial of its own + k with probability at most 1 / (2 - g) if nothing is lost.
    common = first.intact & second.intact
    lost = [common[:, None] & ~answers.changed for answers in (first, second)]
    only_first, only_second, both = lost[0] & ~lost[1], lost[1] & ~lost[0], lost[0] & lost[1]
    gained = [~answers.intact[:, None] & answers.changed for answers in (first, second)]
    together = Clusters.singletons(len(common)) if clusters is None else clusters
    return Dissociation(
        int(common.sum()), only_first.sum(axis=0), only_second.sum(axis=0), both.sum(axis=0),
        _more_p_values(only_first, (only_second, gained[0]), both, second.luck, together),
        _more_p_values(only_second, (only_first, gained[1]), both, first.luck, together),
    )  # fmt: skip


def _more_p_values(
    lost: Bool[np.ndarray, "items layers"],
    against: tuple[Bool[np.ndarray, "items layers"], ...],
    both: Bool[np.ndarray, "items layers"],
    luck: Float[np.ndarray, " layers"],
    clusters: Clusters,
) -> Float[np.ndarray, " layers"]:
    from scipy.stats import binom

    other = np.sum(against, axis=0)
    count = lost.sum(axis=0)
    # of the items that are lost in truth under the other way, a share is kept by luck; the one
    # that is seen to be lost stands for luck / (1 - luck) that are not
    trials = count + other.sum(axis=0) + np.ceil(luck * both.sum(axis=0) - 1e-9).astype(int)
    p = np.asarray(binom.sf(count - 1, trials, 1 / (2 - np.minimum(luck, 1.0))))
    return with_design_effect(p, design_effects(lost - other - luck * both, clusters), clusters)


def expected_agreement(
    gold: Int[np.ndarray, " items"], chosen: Int[np.ndarray, "items layers"], n_options: int
) -> Float[np.ndarray, " layers"]:
    """Right answers that follow from how often each place is chosen and how often it is right."""
    # The expected agreement of Cohen's kappa (Cohen 1960, Educ. Psychol. Meas. 20): a model that
    # always takes the same place is right where the right option stands there, and nowhere else.
    if not len(gold):
        return np.zeros(chosen.shape[1])
    places = np.arange(n_options)
    right = (gold[:, None] == places).mean(axis=0)
    taken = (chosen[:, :, None] == places).mean(axis=0)
    return taken @ right
