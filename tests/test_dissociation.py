"""Whether ways of scoring need other layers: counts by hand, error rates, and planted truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.dissociation import (
    Answers,
    crossed,
    expected_agreement,
    losses_apart,
)

N_LAYERS, LEVEL = 12, 0.05


def answers(intact, changed, luck=0.0) -> Answers:
    changed = np.asarray(changed, dtype=bool)
    return Answers(np.asarray(intact, dtype=bool), changed, np.full(changed.shape[1], float(luck)))


def test_what_is_lost_is_counted_among_items_that_are_right_under_both() -> None:
    #                     common items | right under one, or none
    first = answers([1, 1, 1, 1, 1, 0, 0], [[0], [0], [1], [1], [0], [1], [0]])
    second = answers([1, 1, 1, 1, 0, 1, 0], [[1], [0], [0], [1], [0], [0], [0]])
    found = losses_apart(first, second).over_layers
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
    found = losses_apart(first, second).over_layers
    n10, n01 = int((lost & second.changed[:, 0]).sum()), int((~lost & ~second.changed[:, 0]).sum())
    assert (found.only_first[0], found.only_second[0]) == (n10, n01)
    expected = binomtest(n10, n10 + n01, alternative="greater").pvalue
    assert found.p_first[0] == pytest.approx(expected)


def test_what_is_kept_by_luck_is_no_difference() -> None:
    """Both are wholly lost, and a guess keeps a quarter of the first's answers."""
    kept = np.arange(100) < 25
    first = answers(np.ones(100), kept[:, None], luck=0.25)
    second = answers(np.ones(100), np.zeros((100, 1)))
    assert losses_apart(first, second).over_layers.p_second[0] > 0.4
    unaware = first._replace(luck=np.zeros(1))
    assert losses_apart(unaware, second).over_layers.p_second[0] < 1e-6


def test_nothing_is_said_of_no_items() -> None:
    first, second = (answers(intact(5), np.zeros((5, 2))) for intact in (np.zeros, np.ones))
    found = losses_apart(first, second).over_layers
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


Draw = Callable[[np.random.Generator, int], tuple[Answers, Answers]]


def strengths(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """How sure of each item a model is, intact and with each layer changed: one scale for all."""
    sure = rng.normal(3, 1, n)
    hurt = np.zeros((n, N_LAYERS))
    hurt[:, 2] = rng.normal(1.5, 0.3, n)  # a little off every item
    hurt[:, 5] = np.where(rng.random(n) < 0.4, 9, 0)  # everything off some
    hurt[:, 8] = 20
    return sure, sure[:, None] - hurt


def harder(first: float, second: float) -> Draw:
    """Both scorings read the same scale, at other thresholds; the first guesses among four."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Answers, Answers]:
        intact, changed = strengths(rng, n)
        guess = rng.random((n, N_LAYERS + 1)) < 0.25
        one = answers((intact > first) | guess[:, 0], (changed > first) | guess[:, 1:], 0.25)
        return one, answers(intact > second, changed > second)

    return draw


def noisy(rng: np.random.Generator, n: int) -> tuple[Answers, Answers]:
    """One layer is needed under both; elsewhere answers of the first are often drawn anew."""
    found = []
    for accuracy, flips in ((0.7, 0.4), (0.9, 0.03)):
        right = rng.random(n) < accuracy
        anew = rng.random((n, N_LAYERS)) < flips
        changed = np.where(anew, rng.random((n, N_LAYERS)) < accuracy, right[:, None])
        changed[:, 8] = False
        found.append(answers(right, changed))
    return found[0], found[1]


def one_place(rng: np.random.Generator, n: int) -> tuple[Answers, Answers]:
    """A letter is preferred: what is right when intact, and what is kept when broken, is "C"."""
    gold = rng.integers(0, 4, n)
    intact = (gold == 2) | (rng.random(n) < 0.3)
    sure, changed = strengths(rng, n)
    letter = np.where(changed > 2.0, intact[:, None], (gold == 2)[:, None])
    share = float((gold[intact] == 2).mean())
    return answers(intact, letter, share), answers(sure > 1.0, changed > 1.0)


def unlike_items(rng: np.random.Generator, n: int) -> tuple[Answers, Answers]:
    """Layers damage more or less; items that are hard under one scoring are easy under another."""
    damage = np.linspace(0.5, 4, N_LAYERS)
    found = []
    for mean, spread in ((2, 3), (2.5, 0.5)):
        sure = rng.normal(mean, spread, n)
        found.append(answers(sure > 0, sure[:, None] > damage))
    return found[0], found[1]


@pytest.mark.parametrize("n", [40, 150])
@pytest.mark.parametrize(
    "draw",
    [harder(1.0, 2.0), harder(2.0, 1.0), harder(1.5, 1.5), noisy, one_place, unlike_items],
    ids=["second harder", "first harder", "alike", "noise", "one letter", "unlike items"],
)
def test_other_layers_are_rarely_claimed_where_one_scoring_is_only_harder(draw: Draw, n: int):
    rng = np.random.default_rng(n)
    claims = [crossed(*draw(rng, n)).p < LEVEL for _ in range(200)]
    assert np.mean(claims) <= 0.02


def test_a_double_dissociation_alone_would_claim_other_layers_of_unlike_items() -> None:
    """Why two layers must turn round: whichever layer damages more loses more both ways."""
    rng = np.random.default_rng(0)
    drawn = [unlike_items(rng, 100) for _ in range(100)]
    assert np.mean([losses_apart(*both).over_layers.p < LEVEL for both in drawn]) > 0.8
    assert not any(crossed(*both).p < LEVEL for both in drawn)


@pytest.mark.parametrize("n", [40, 150])
def test_a_planted_dissociation_is_found(n: int) -> None:
    """One layer costs half of the first's answers alone, another half of the second's."""
    rng = np.random.default_rng(1)

    def found_in() -> bool:
        found = []
        for own in (2, 8):
            changed = np.ones((n, N_LAYERS), dtype=bool)
            changed[:, own] = rng.random(n) < 0.5
            changed &= rng.random((n, N_LAYERS)) < 0.98
            found.append(answers(np.ones(n), changed, 0.25 * (own == 2)))
        turned = crossed(*found)
        return turned.p < LEVEL and (turned.first, turned.second) == (2, 8)

    assert np.mean([found_in() for _ in range(100)]) > 0.9


def test_items_that_ask_for_the_same_are_not_counted_twice() -> None:
    """Flips of either scoring that all items of a cluster share, in equal measure."""
    rng = np.random.default_rng(3)
    clusters = Clusters.of([f"fact {i // 4}" for i in range(80)])
    smallest = []
    for _ in range(300):
        flips = [np.repeat(rng.random((20, 1)) < 0.3, 4, axis=0) for _ in range(2)]
        one, other = (answers(np.ones(80), ~flip) for flip in flips)
        smallest.append([
            losses_apart(one, other, which).over_layers.p_first[0] for which in (None, clusters)
        ])  # fmt: skip
    apart, together = np.mean(np.array(smallest) < LEVEL, axis=0)
    assert apart > 0.15
    assert together <= 0.06
