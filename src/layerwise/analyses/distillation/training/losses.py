"""Distances of a student from its teacher: divergences of predictions, and between streams.

Numbers alone; which positions and layers are compared is not decided here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from layerwise.errors import UserError

from .names import FORWARD, REVERSE


@dataclass(frozen=True)
class Objective:
    """Loss that is minimised."""

    divergence: str = FORWARD  # one of ``DIVERGENCES``
    temperature: float = 1.0  # both models' logits are divided by it
    # The teacher's share of the mixture that ``jensen-shannon`` compares with, in 0..1.
    mixture: float = 0.5
    on_policy: float = 0.0  # share of the texts that the student writes itself
    # Weight of the cross-entropy on answers that the student did not write.
    cross_entropy: float = 0.0
    hidden: float = 0.0  # weight of the distance of residual streams

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(
                f"The temperature is {self.temperature:g}; expected a number above 0, such as 1: "
                "logits are divided by it."
            )
        for name, fits, expected in (
            ("mixture", 0 < self.mixture < 1, "a share between 0 and 1, such as 0.5"),
            ("on_policy", 0 <= self.on_policy <= 1, "a share from 0 to 1"),
            ("cross_entropy", self.cross_entropy >= 0, "a weight of 0 or more"),
            ("hidden", self.hidden >= 0, "a weight of 0 or more"),
        ):
            if not fits:
                value = getattr(self, name)
                raise UserError(f"Argument {name!r} is {value:g}; expected {expected}.")


def divergences(
    teacher: Float[torch.Tensor, "positions vocab"],
    student: Float[torch.Tensor, "positions vocab"],
    objective: Objective,
) -> Float[torch.Tensor, " positions"]:
    """Divergence of the student's next-token distribution from the teacher's, at each position.

    With P the teacher's and Q the student's distribution, both at the temperature T: KL(P || Q)
    (``forward``), KL(Q || P) (``reverse``), or the generalized Jensen-Shannon divergence
    b KL(P || M) + (1 - b) KL(Q || M) with M = b P + (1 - b) Q, b the ``mixture`` (Agarwal et al.
    2024, arXiv:2306.13649, section 3). Times T squared, so that gradients keep their size (Hinton
    et al. 2015, arXiv:1503.02531, section 2).
    """
    log_p, log_q = (
        (
            logits.to(torch.promote_types(logits.dtype, torch.float32)) / objective.temperature
        ).log_softmax(-1)
        for logits in (teacher, student)
    )
    if objective.divergence == FORWARD:
        divergence = kl(log_p, log_q)
    elif objective.divergence == REVERSE:
        divergence = kl(log_q, log_p)
    else:
        b = objective.mixture
        log_m = torch.logaddexp(log_p + math.log(b), log_q + math.log1p(-b))
        divergence = b * kl(log_p, log_m) + (1 - b) * kl(log_q, log_m)
    return divergence * objective.temperature**2


def kl(
    log_p: Float[torch.Tensor, "positions vocab"], log_q: Float[torch.Tensor, "positions vocab"]
) -> Float[torch.Tensor, " positions"]:
    """Kullback-Leibler divergence KL(P || Q) in nats, of log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def stream_distance(
    teacher: Float[torch.Tensor, "positions d_model"],
    student: Float[torch.Tensor, "positions d_model"],
) -> Float[torch.Tensor, ""]:
    """Mean squared error of a residual stream, relative to the teacher's mean square."""
    teacher = teacher.float()
    return (student.float() - teacher).square().mean() / teacher.square().mean()
