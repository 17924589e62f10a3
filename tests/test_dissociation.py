"""Layers that ways of scoring need: counts by hand, error rates, and planted truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from layerwise.stats.inference import holm
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.dissociation import (
    ScoredAnswers,
    crossing_test,
    dissociation_tests,
    expected_agreement,
)
from tests.cases import in_long_runs

N_LAYERS, LEVEL = 12, 0.05


def answers(intact, changed, luck=0.0) -> ScoredAnswers:
    changed = np.asarray(changed, dtype=bool)
    return ScoredAnswers(
        np.asarray(intact, dtype=bool), changed, np.full(changed.shape[1], float(luck))
    )


def test_what_is_lost_is_counted_among_items_that_are_right_under_both() -> None:
    #                     common items | right under one, or none
    first = answers([1, 1, 1, 1, 1, 0, 0], [[0], [0], [1], [1], [0], [1], [0]])
    second = answers([1, 1, 1, 1, 0, 1, 0], [[1], [0], [0], [1], [0], [0], [0]])
    found = dissociation_tests(first, second).over_layers
    assert found.n_common == 4
    assert (found.only_first, found.only_second, found.both) == ([1], [1], [1])
    # the sixth item is gained under the first: 1 lost against 1 + 1
    assert found.p_first == pytest.approx(binomtest(1, 3, alternative="greater").pvalue)
    assert found.p_second == pytest.approx(binomtest(1, 2, alternative="greater").pvalue)


def test_without_luck_and_overlap_it_is_one_sided_mcnemar() -> None:
    rng = np.random.default_rng(0)
    lost = rng.random(80) < 0.3
    first = answers(np.ones(80), ~lost[:, None])
    second = answers(np.ones(80), (lost | (np.arange(80) >= 8))[:, None])
    found = dissociation_tests(first, second).over_layers
    n10, n01 = int((lost & second.changed[:, 0]).sum()), int((~lost & ~second.changed[:, 0]).sum())
    assert (found.only_first[0], found.only_second[0]) == (n10, n01)
    expected = binomtest(n10, n10 + n01, alternative="greater").pvalue
    assert found.p_first[0] == pytest.approx(expected)


def test_what_is_kept_by_luck_is_no_difference() -> None:
    """Both are wholly lost, and a guess keeps a quarter of the first's answers."""
    kept = np.arange(100) < 25
    first = answers(np.ones(100), kept[:, None], luck=0.25)
    second = answers(np.ones(100), np.zeros((100, 1)))
    assert dissociation_tests(first, second).over_layers.p_second[0] > 0.4
    unaware = first._replace(luck=np.zeros(1))
    assert dissociation_tests(unaware, second).over_layers.p_second[0] < 1e-6


def test_nothing_is_said_of_no_items() -> None:
    first, second = (answers(intact(5), np.zeros((5, 2))) for intact in (np.zeros, np.ones))
    found = dissociation_tests(first, second).over_layers
    assert found.n_common == 0
    assert found.p == 1.0


def test_agreement_is_that_of_kappa() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 200)
    chosen = np.stack([rng.choice(4, 200, p=p) for p in ([0.7, 0.1, 0.1, 0.1], [0.25] * 4)], 1)
    for layer, found in enumerate(expected_agreement(gold, chosen, 4)):
        observed = float((gold == chosen[:, layer]).mean())
        kappa = cohen_kappa_score(gold, chosen[:, layer])
        assert found == pytest.approx((observed - kappa) / (1 - kappa))
    always = np.full((200, 1), 2)
    assert expected_agreement(gold, always, 4)[0] == pytest.approx((gold == 2).mean())


# Nulls: how often something is claimed that is not so.

Draw = Callable[[np.random.Generator, int], tuple[ScoredAnswers, ScoredAnswers]]


def redrawn(rng: np.random.Generator, n: int, accuracy: float, flips: float):
    """Right with this accuracy; a share of the answers is drawn anew under every change."""
    right = rng.random(n) < accuracy
    anew = rng.random((n, N_LAYERS)) < flips
    return right, np.where(anew, rng.random((n, N_LAYERS)) < accuracy, right[:, None])


def idle(*kinds: tuple[float, float]) -> Draw:
    """No layer matters; accuracies and flips differ between the two ways."""

    def draw(rng: np.random.Generator, n: int) -> tuple[ScoredAnswers, ScoredAnswers]:
        first, second = (answers(*redrawn(rng, n, *kind), 0.25) for kind in kinds)
        return first, second

    return draw


def damaging_layers(
    kinds: tuple[tuple[float, float], tuple[float, float]],
    layers: list[int],
    kept: tuple[float, float],
    luck: tuple[float, float] = (0.0, 0.0),
) -> Draw:
    """Layers that keep a share of the answers either way, whichever they are, or leave guesses."""

    def draw(rng: np.random.Generator, n: int) -> tuple[ScoredAnswers, ScoredAnswers]:
        both = []
        for kind, share, guessed in zip(kinds, kept, luck, strict=True):
            right, changed = redrawn(rng, n, *kind)
            left = rng.random((n, len(layers))) < (share or guessed)
            changed[:, layers] = changed[:, layers] & left if share else left
            both.append(answers(right, changed, guessed))
        return both[0], both[1]

    return draw


def strengths(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Certainty of a model on each item, intact and with each layer changed: one scale for all."""
    sure = rng.normal(3, 1, n)
    hurt = np.zeros((n, N_LAYERS))
    hurt[:, 2] = rng.normal(1.5, 0.3, n)  # a little off every item
    hurt[:, 5] = np.where(rng.random(n) < 0.4, 9, 0)  # everything off some
    hurt[:, 8] = 20
    return sure, sure[:, None] - hurt


def harder(first: float, second: float) -> Draw:
    """Both ways read the same scale, at other thresholds; the first guesses among four."""

    def draw(rng: np.random.Generator, n: int) -> tuple[ScoredAnswers, ScoredAnswers]:
        intact, changed = strengths(rng, n)
        guess = rng.random((n, N_LAYERS + 1)) < 0.25
        one = answers((intact > first) | guess[:, 0], (changed > first) | guess[:, 1:], 0.25)
        return one, answers(intact > second, changed > second)

    return draw


def one_place(rng: np.random.Generator, n: int) -> tuple[ScoredAnswers, ScoredAnswers]:
    """A letter is preferred: what is right when intact, and what is kept when broken, is "C"."""
    gold = rng.integers(0, 4, n)
    intact = (gold == 2) | (rng.random(n) < 0.3)
    sure, changed = strengths(rng, n)
    letter = np.where(changed > 2.0, intact[:, None], (gold == 2)[:, None])
    share = float((gold[intact] == 2).mean())
    return answers(intact, letter, share), answers(sure > 1.0, changed > 1.0)


def unlike(*shapes: tuple[float, float], flips: float = 0.0) -> Draw:
    """Layers that damage more or less, and items hard one way that are easy the other way."""

    def draw(rng: np.random.Generator, n: int) -> tuple[ScoredAnswers, ScoredAnswers]:
        damage, both = np.linspace(0.5, 4, N_LAYERS), []
        for mean, spread in shapes:
            sure = rng.normal(mean, spread, n)
            right, changed = sure > 0, sure[:, None] > damage
            anew = rng.random((n, N_LAYERS)) < flips
            changed = np.where(anew, rng.random((n, N_LAYERS)) < right.mean(), changed)
            both.append(answers(right, changed))
        return both[0], both[1]

    return draw


KINDS = (0.8, 0.1), (0.95, 0.05)
ALIKE = {
    "four options": damaging_layers(KINDS, [2, 5, 8], (0, 0), (0.25, 0.25)),
    "free text, an answer of the passage": damaging_layers(KINDS, [2, 5, 8], (0, 0), (0.02, 0.25)),
    "a lower floor with the passage": damaging_layers(KINDS, [2, 5, 8], (0, 0), (0.25, 0.05)),
    "half of the answers": damaging_layers(((0.7, 0.1), (0.95, 0.03)), [4], (0.5, 0.5)),
    "flips without the passage": idle((0.6, 0.27), (0.95, 0.03)),
    "flips with the passage": idle((0.95, 0.03), (0.6, 0.27)),
    "flips either way": idle((0.8, 0.27), (0.9, 0.1)),
    "ceilings": idle((0.97, 0.1), (1.0, 0.1)),
}
ONE_SORT = {
    "first harder": harder(2.0, 1.0),
    "second harder": harder(1.0, 2.0),
    "noise": damaging_layers(((0.7, 0.4), (0.9, 0.03)), [8], (0, 0)),
    "one letter": one_place,
    "unlike items": unlike((2, 3), (2.5, 0.5)),
    "unlike items, turned": unlike((2.5, 0.5), (2, 3), flips=0.1),
}
by_size = pytest.mark.parametrize("n", [100, *in_long_runs((40,), (150,))])


def claims(draw: Draw, n: int, n_sets: int = 100) -> np.ndarray:
    """By data set: a layer loses more the first way, one the second way, two turn round."""
    rng, found = np.random.default_rng(n), []
    for _ in range(n_sets):
        turned = crossing_test(*draw(rng, n))
        sure = holm(turned.apart.two_sided_p) < LEVEL
        first = turned.apart.p_first <= turned.apart.p_second
        found.append([(sure & first).any(), (sure & ~first).any(), turned.p < LEVEL])
    return np.array(found)


@by_size
@pytest.mark.parametrize("name", ALIKE)
def test_no_layer_is_said_to_lose_more_where_both_lose_alike(name: str, n: int) -> None:
    found = claims(ALIKE[name], n)
    assert found[:, :2].any(axis=1).mean() <= 0.05
    assert not found[:, 2].any()


@pytest.mark.long
@by_size
@pytest.mark.parametrize("name", ONE_SORT)
def test_other_layers_are_rarely_claimed_where_one_way_is_only_harder(name: str, n: int) -> None:
    assert claims(ONE_SORT[name], n)[:, 2].mean() <= 0.02


def test_a_double_dissociation_alone_would_claim_other_layers_of_unlike_items() -> None:
    """Two layers must turn round: whichever layer damages more loses more both ways."""
    rng = np.random.default_rng(0)
    drawn = [ONE_SORT["unlike items"](rng, 100) for _ in range(50)]
    assert np.mean([dissociation_tests(*both).over_layers.p < LEVEL for both in drawn]) > 0.5


@pytest.mark.parametrize(("n", "lost", "least"), [(40, 0.8, 0.9), (150, 0.5, 0.95)])
def test_a_planted_dissociation_is_found(n: int, lost: float, least: float) -> None:
    """One layer loses this share of the first way's answers alone, another of the second's."""
    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        both = []
        for own, kind in ((2, (0.7, 0.1)), (8, (0.95, 0.05))):
            right, changed = redrawn(rng, n, *kind)
            changed[:, own] &= rng.random(n) > lost
            both.append(answers(right, changed, 0.25))
        turned = crossing_test(*both)
        found.append(turned.p < LEVEL and (turned.first, turned.second) == (2, 8))
    assert np.mean(found) >= least


def test_items_that_ask_for_the_same_are_not_counted_twice() -> None:
    """Flips of either way that all items of a cluster share, in equal measure."""
    rng, clusters = (
        np.random.default_rng(3),
        Clusters.from_labels([f"fact {i // 4}" for i in range(80)]),
    )
    p = []
    for _ in range(200):
        flips = [np.repeat(rng.random((20, 1)) < 0.3, 4, axis=0) for _ in range(2)]
        both = [answers(np.ones(80), ~flip) for flip in flips]
        p.append([dissociation_tests(*both, which).p_first[0] for which in (None, clusters)])
    apart, together = np.mean(np.array(p) < LEVEL, axis=0)
    assert apart > 0.15
    assert together <= 0.06
