"""Divergences, distances and texts of a distillation against outside values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.nn import functional as F

from layerwise.analyses.distillation.losses import Objective, divergences, stream_distance
from layerwise.analyses.distillation.student import matching_layers
from layerwise.analyses.distillation.training import pack, schedule, unpack


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


def test_the_gradient_of_the_forward_divergence_is_the_difference_of_distributions():
    """T squared keeps it near p - q whatever the temperature (Hinton et al. 2015, section 2)."""
    teacher, student = logits(2), logits(3).requires_grad_()
    divergences(teacher, student, Objective("forward", 4.0)).sum().backward()
    apart = (student.detach() / 4).softmax(-1) - (teacher / 4).softmax(-1)
    torch.testing.assert_close(student.grad, 4 * apart, atol=1e-6, rtol=1e-5)


def test_the_even_jensen_shannon_divergence_is_scipys():
    teacher, student = logits(4), logits(5)
    found = divergences(teacher, student, Objective("jensen-shannon"))
    expected = jensenshannon(teacher.softmax(-1).numpy(), student.softmax(-1).numpy(), axis=1) ** 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_mixtures_lead_from_forward_to_reverse():
    teacher, student = logits(6), logits(7)
    for mixture, kind in ((1e-7, "forward"), (1 - 1e-7, "reverse")):
        share = min(mixture, 1 - mixture)
        objective = Objective("jensen-shannon", mixture=mixture)
        found = divergences(teacher.double(), student.double(), objective) / share
        expected = divergences(teacher, student, Objective(kind))
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=2e-3)


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


def test_a_state_is_kept_bit_by_bit_and_without_pickle():
    tensors = {"weight a": logits(0), "optimizer 0 step": torch.tensor(3.0)}
    facts = {"done": 3, "rows": [{"loss": 0.1 + 0.2, "held_out_kl": None}]}
    content = pack(tensors, facts)
    found, told = unpack(content)
    assert told == facts
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert b"\x80\x02" not in content[:8]
    assert not content.startswith(b"PK")  # as torch.save writes


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
    from layerwise.errors import UserError

    with pytest.raises(UserError) as caught:
        Objective(**given)
    assert says in str(caught.value)
