"""The smallest effects of interest: what is smaller is not headlined, and counts as no loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerwise.errors import UserError

from .equivalence import MOST_NATS, SMALLEST_LOSS, SMALLEST_NATS

SMALLEST_DEPTH = 1.0
"""Smallest difference of depth that is of interest, in layers."""


@dataclass(frozen=True)
class Interest:
    """The smallest effects that are of interest.

    Attributes:
        loss: of accuracy, in 0..1.
        nats: of the right answer's log-probability.
        depth: difference of depth, in layers.
    """

    loss: float = SMALLEST_LOSS
    nats: float = SMALLEST_NATS
    depth: float = SMALLEST_DEPTH

    def settings(self) -> dict[str, float]:
        """What of it is not as usual, as settings of a run: those of earlier runs have none."""
        usual = Interest()
        return {
            f"smallest_{name}": value
            for name, value in vars(self).items()
            if value != getattr(usual, name)
        }

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Interest:
        """Those that a run was made with."""
        found = {name: settings.get(f"smallest_{name}") for name in vars(cls())}
        known = {name: value for name, value in found.items() if value is not None}
        return cls(**{n: float(max(v) if isinstance(v, list) else v) for n, v in known.items()})


def refuse_negative_depth(smallest_depth: float) -> None:
    """Refuse a smallest depth of interest that is none."""
    if not smallest_depth >= 0:
        raise UserError(
            f"The smallest depth of interest is {smallest_depth}: expected a number of layers, 0 "
            "or more; leave it out for one layer."
        )


def refuse_uninteresting(
    smallest_loss: float = SMALLEST_LOSS,
    smallest_nats: float = SMALLEST_NATS,
    smallest_depth: float = SMALLEST_DEPTH,
) -> None:
    """Refuse smallest effects of interest that are none."""
    refuse_negative_depth(smallest_depth)
    for value, what, most in (
        (smallest_loss, "loss of accuracy", 1.0),
        (smallest_nats, "loss of log-probability", MOST_NATS),
    ):
        if not 0 < value < most:
            raise UserError(
                f"The smallest {what} of interest is {value}: expected a number above 0 and below "
                f"{most:g}; leave it out for the usual one."
            )
