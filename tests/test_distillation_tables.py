"""Gains and costs of training, against counting and outside values, and where it brought none.

Records are made up; models are distilled in ``test_distillation``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from torch.nn import functional as F

from layerwise.analyses.distillation.result import gains_table
from layerwise.analyses.distillation.training.loop import schedule
from layerwise.analyses.distillation.training.losses import Objective, divergences, stream_distance
from layerwise.analyses.distillation.training.names import DISTILLED, STUDENT, TEACHER
from layerwise.analyses.distillation.training.student import matching_layers
from layerwise.errors import UserError
from tests.distilling import chance, records


def first(n: int, of: int = 40) -> np.ndarray:
    return np.arange(of) < n


KNOWN = {
    "half": {TEACHER: first(38), STUDENT: first(10), DISTILLED: first(24)},
    "lost": {TEACHER: first(36), STUDENT: first(34), DISTILLED: first(12)},
    "same": {TEACHER: first(20), STUDENT: first(20), DISTILLED: ~first(20)},
    "whole": {TEACHER: first(40), STUDENT: first(12), DISTILLED: first(40)},
}


def test_gains_are_those_of_counting():
    gains = gains_table(records(KNOWN), chance, 0).set_index("task")
    for task, of in KNOWN.items():
        row = gains.loc[task]
        before, after = of[STUDENT], of[DISTILLED]
        assert row["gain"] == pytest.approx(after.mean() - before.mean())
        assert row["lead"] == pytest.approx(of[TEACHER].mean() - before.mean())
        assert (row["n_gained"], row["n_lost"]) == (
            (after & ~before).sum(),
            (before & ~after).sum(),
        )
        assert row["nats"] == pytest.approx(2 * row["gain"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert gains.loc["half", "closed"] == pytest.approx(14 / 28)
    assert gains.loc["half", "closed_low"] < 0.5 < gains.loc["half", "closed_high"]
    assert gains.loc["whole", "closed"] == 1
    unseen = 1 - 0.025 ** (1 / 40)  # so many others may there be, none of 40 items being so
    assert gains.loc["whole", "closed_low"] <= 1 - unseen
    assert gains.loc["whole", "closed_high"] >= 1 + unseen
    assert gains["improved"].to_dict() == {"half": True, "lost": False, "same": False,
                                           "whole": True}  # fmt: skip
    assert gains["worse"].to_dict() == {"half": False, "lost": True, "same": False, "whole": False}
    assert gains["leads"].to_dict() == {"half": True, "lost": False, "same": False, "whole": True}
    assert gains["closed"].isna().to_dict() == {"half": False, "lost": True, "same": True,
                                                "whole": False}  # fmt: skip


def test_tests_are_mcnemars_and_holms():
    gains = gains_table(records(KNOWN), chance, 0)
    expected = [
        binomtest(int(row.n_gained), int(row.n_gained + row.n_lost)).pvalue
        if row.n_gained + row.n_lost
        else 1.0
        for row in gains.itertuples()
    ]
    np.testing.assert_allclose(gains["p"], expected)
    np.testing.assert_allclose(gains["p_holm"], multipletests(expected, method="holm")[1])


def test_items_that_ask_for_the_same_count_once():
    """Forty items of four facts each of which is learned or not are worth four."""
    facts = [f"fact {place // 10}" for place in range(40)]
    of = {TEACHER: first(40), STUDENT: first(0), DISTILLED: first(30)}
    (row,) = gains_table(records({"facts": of}, facts), chance, 0).to_dict("records")
    assert row["n_clusters"] == 4
    assert row["p"] == pytest.approx(2 * 0.5**3)
    assert not row["improved"]
    apart = gains_table(records({"facts": of}), chance, 0)
    assert apart["improved"].all()


def test_a_student_that_guesses_better_by_luck_has_learned_nothing():
    """From below guessing to guessing is a significant change and no ability."""
    of = {TEACHER: first(10), STUDENT: first(0), DISTILLED: first(10)}
    (row,) = gains_table(records({"luck": of}), chance, 0).to_dict("records")
    assert row["p_holm"] < 0.05
    assert not row["signal_distilled"]
    assert not row["improved"]
    assert not row["leads"]


def test_records_of_one_model_that_are_missing_are_told():
    table = records({"half": KNOWN["half"]})
    for lacking in (table.loc[table["host"] != TEACHER], table.iloc[:-1]):
        with pytest.raises(UserError, match="not of the same items in all three models"):
            gains_table(lacking, chance, 0)
    assert gains_table(table.iloc[:0], chance, 0).empty


def null_gains(n_tasks: int, rng: np.random.Generator) -> pd.DataFrame:
    """Gains in tasks whose answers training flips as often one way as the other."""
    answers = {}
    for number in range(n_tasks):
        able = rng.random(40) < rng.uniform(0.3, 0.9)
        share = rng.uniform(0, 0.6)
        before, after = (
            np.where(rng.random(40) < share, rng.permutation(able), able) for _ in range(2)
        )
        answers[f"task {number}"] = {TEACHER: able, STUDENT: before, DISTILLED: after}
    return gains_table(records(answers), chance, 0)


@pytest.mark.parametrize("n_runs", [3, pytest.param(300, marks=pytest.mark.long)])
def test_runs_that_learn_nothing_are_said_to_help_or_hurt_as_rarely_as_stated(n_runs):
    """1 of 300 runs of 8 tasks, where 15 are allowed."""
    rng = np.random.default_rng(6)
    runs = [null_gains(8, rng) for _ in range(n_runs)]
    tests = pd.concat(runs)
    n_low = int((tests["p"] < 0.05).sum())
    assert binomtest(n_low, len(tests), 0.05, alternative="greater").pvalue > 0.01
    wrong = sum(bool((gains["improved"] | gains["worse"]).any()) for gains in runs)
    assert wrong <= 0.05 * n_runs, wrong


def logits(seed: int, n: int = 5, vocab: int = 11) -> torch.Tensor:
    return 3 * torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed))


def by_torch(teacher: torch.Tensor, student: torch.Tensor, objective: Objective) -> torch.Tensor:
    """The same by ``torch.nn.functional.kl_div``, whose first argument is the approximation."""
    p, q = (one / objective.temperature for one in (teacher, student))
    p, q = p.softmax(-1), q.softmax(-1)

    def kl(exact: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        return F.kl_div(near.log(), exact, reduction="none").sum(-1)

    if objective.divergence == "forward":
        found = kl(p, q)
    elif objective.divergence == "reverse":
        found = kl(q, p)
    else:
        middle = objective.mixture * p + (1 - objective.mixture) * q
        found = objective.mixture * kl(p, middle) + (1 - objective.mixture) * kl(q, middle)
    return objective.temperature**2 * found


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_divergences_and_their_gradients_are_those_of_torch(divergence, temperature):
    objective = Objective(divergence, temperature, mixture=0.3)
    teacher, students = logits(0), [logits(1).requires_grad_() for _ in range(2)]
    found = divergences(teacher, students[0], objective)
    expected = by_torch(teacher, students[1], objective)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(students[0].grad, students[1].grad, atol=1e-5, rtol=1e-5)


def test_no_divergence_is_told_where_both_say_the_same():
    for kind in ("forward", "reverse", "jensen-shannon"):
        assert divergences(logits(8), logits(8) + 3, Objective(kind)).abs().max() < 1e-5
    assert stream_distance(logits(8), logits(8)) == 0


def test_distances_of_streams_are_relative():
    teacher, student = logits(0), logits(1)
    expected = F.mse_loss(student, teacher) / teacher.square().mean()
    assert stream_distance(teacher, student) == pytest.approx(float(expected), rel=1e-6)
    scaled = stream_distance(10 * teacher, 10 * student)
    assert scaled == pytest.approx(float(expected), rel=1e-6)
    assert stream_distance(teacher, torch.zeros_like(teacher)) == 1


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ([4], [4], (0, 1, 2, 3)),
        ([2], [6], (2, 5)),
        ([3], [8], (2, 5, 7)),
        ([4], [2], (0, 0, 1, 1)),
        ([1, 2], [3, 4], (2, 4, 6)),
    ],
)
def test_layers_are_matched_by_relative_depth_within_a_stack(mine, theirs, expected):
    assert matching_layers(mine, theirs) == expected


def test_the_rate_rises_and_falls_to_nothing():
    shares = [schedule(step, 200) for step in range(200)]
    assert shares[0] == pytest.approx(1 / 20)
    assert max(shares) < 1
    assert shares[25:] == sorted(shares[25:], reverse=True)
    assert shares[-1] == pytest.approx(1 / 200)
    assert schedule(0, 1) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"temperature": 0.0}, "temperature is 0; expected a number above 0"),
        ({"temperature": -1.0}, "temperature is -1; expected"),
        ({"mixture": 1.0}, "'mixture' is 1; expected a share between 0 and 1"),
        ({"on_policy": 1.5}, "'on_policy' is 1.5; expected a share from 0 to 1"),
        ({"cross_entropy": -0.1}, "'cross_entropy' is -0.1; expected a weight of 0 or more"),
        ({"hidden": -2.0}, "'hidden' is -2; expected a weight of 0 or more"),
    ],
)
def test_numbers_that_make_no_loss_are_refused(given, says):
    with pytest.raises(UserError) as caught:
        Objective(**given)
    assert says in str(caught.value)
