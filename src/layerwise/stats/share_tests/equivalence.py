"""Equivalence tests: a loss is smaller than the smallest effect of interest.

A test that finds no significant loss says nothing of how large the loss may be, so "no loss" is
claimed only after a test of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from layerwise.errors import UserError
from layerwise.stats.items.clusters import Clusters

# The smallest effect of interest, unless another is asked for: 5 points of accuracy, and a tenth
# of a nat, by which the probability of the right answer falls by a tenth.
SMALLEST_LOSS, SMALLEST_NATS = 0.05, 0.1
# Nats that one item's loss counts for at most, and how many bets against a loss are averaged.
MOST_NATS, N_BETS = 1.0, 20
SMALLEST_DEPTH = 1.0  # in layers


def no_loss_p_values(
    change: Float[np.ndarray, "items columns"], margin: float, clusters: Clusters
) -> Float[np.ndarray, " columns"]:
    """One-sided p-values of "accuracy falls by the margin or more", on the same items."""
    # Of items that each stand by themselves ``score_p_values``; where some ask for the same thing,
    # bets on the sums of clusters (``log_evidence_below``). A design effect would not do: where
    # whole clusters lose and a few single answers flip, it cannot be estimated.
    if clusters.are_items:
        lost, gained = (np.maximum(sign * change, 0).sum(axis=0) for sign in (1, -1))
        return score_p_values(lost, gained, np.full(len(lost), len(change)), margin)
    return np.exp(np.minimum(0.0, -log_evidence_below(change, margin, 1.0, clusters)))


def score_p_values(
    lost: Shaped[np.ndarray, "*shape"],
    gained: Shaped[np.ndarray, "*shape"],
    n: Int[np.ndarray, "*shape"],
    margin: float = SMALLEST_LOSS,
) -> Float[np.ndarray, "*shape"]:
    """One-sided score test that accuracy falls by less than a margin, on the same items."""
    # The hypothesis that is tested is a loss of the margin or more; the discordant probabilities
    # are estimated under it (Tango 1998, Stat. Med. 17, 891-908, section 2). With no discordant
    # item, p is Phi(-sqrt(n margin / (1 - margin))).
    from scipy.special import ndtr

    b, c, total = (np.asarray(each, dtype=float) for each in (lost, gained, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = gains_beside_loss(b, c, total, margin)
        spread = np.sqrt(total * (2 * gains + margin * (1 - margin)))
        p = ndtr((b - c - total * margin) / spread)
    return np.where(total > 0, p, 1.0)


def gains_beside_loss(
    lost: Shaped[np.ndarray, "*shape"],
    gained: Shaped[np.ndarray, "*shape"],
    n: Shaped[np.ndarray, "*shape"],
    loss: Float[np.ndarray, "*shape"] | float,
) -> Float[np.ndarray, "*shape"]:
    """Likeliest share of items gained, if the share lost is larger by a given loss (Tango 1998)."""
    linear = (2 * n - lost + gained) * loss - lost - gained
    root = np.sqrt(np.maximum(linear**2 + 8 * n * gained * loss * (1 - loss), 0.0))
    return np.asarray((root - linear) / (4 * n))


def no_loss_of_nats_p_values(
    losses: Float[np.ndarray, "n columns"],
    margin: float = SMALLEST_NATS,
    clusters: Clusters | None = None,
) -> Float[np.ndarray, " columns"]:
    """Test that the mean loss over items is below a margin, where no item counts for too much."""
    # Losses have long tails, and a t-test of their mean says "no loss" far too often. Clipped to
    # [-most, most], each of prod_i (1 - b (loss_i - margin)), 0 < b <= 1 / (most - margin), has an
    # expectation of at most 1 if the mean loss is the margin or more; so has their mean over some
    # b, whose inverse is a p-value for any distribution (Waudby-Smith and Ramdas 2024, J. R. Stat.
    # Soc. B 86, sections 2 and 4, fixed bets; Markov's inequality). Of items that ask for the same
    # thing one bet is made on their sum, as a share of the largest cluster's.
    capital = log_evidence_below(losses, margin, MOST_NATS, clusters)
    p = np.exp(np.minimum(0.0, -capital))
    return np.where(np.isnan(losses).any(axis=0), np.nan, p)


def log_evidence_below(
    losses: Float[np.ndarray, "n columns"],
    margin: float,
    most: float,
    clusters: Clusters | None = None,
) -> Float[np.ndarray, " columns"]:
    """Log of the evidence of ``no_loss_of_nats_p_values`` against a mean of a margin or more."""
    clipped = np.clip(np.nan_to_num(losses), -most, most)
    excess = clipped - margin
    if clusters is not None and not clusters.are_items:
        # rounding of a sum must not lose more than there is
        excess = np.minimum(clusters.sums(excess) / clusters.sizes.max(), most - margin)
    bets = np.arange(1, N_BETS + 1) / N_BETS / (most - margin)
    with np.errstate(divide="ignore"):  # all is lost by the largest bet where one item loses most
        growth = np.log1p(-bets * excess[..., None]).sum(axis=0)
    return np.logaddexp.reduce(growth, axis=-1) - np.log(N_BETS)


def excludable_loss(n: int, level: float) -> float:
    """The smallest loss that can be excluded on so many items, if no answer changes at all."""
    # It solves ``score_p_values`` of no discordant item for the margin: z^2 / (n + z^2).
    from scipy.special import ndtri

    z = float(ndtri(level))
    return z**2 / (n + z**2)


@dataclass(frozen=True)
class SmallestEffects:
    """The smallest effects of interest."""

    loss: float = SMALLEST_LOSS  # of accuracy, in 0..1
    nats: float = SMALLEST_NATS  # of the right answer's log-probability
    depth: float = SMALLEST_DEPTH  # difference of depth, in layers

    def settings(self) -> dict[str, float]:
        """Settings of a run for non-default values."""
        usual = SmallestEffects()
        return {
            f"smallest_{name}": value
            for name, value in vars(self).items()
            if value != getattr(usual, name)
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SmallestEffects:
        """The smallest effects of interest of a run, by its settings."""
        given = {name: settings.get(f"smallest_{name}") for name in vars(cls())}
        known = {name: value for name, value in given.items() if value is not None}
        return cls(**{n: float(max(v) if isinstance(v, list) else v) for n, v in known.items()})


def refuse_negative_depth(smallest_depth: float) -> None:
    """Refuse a smallest depth of interest below 0."""
    if not smallest_depth >= 0:
        raise UserError(
            f"The smallest depth of interest is {smallest_depth}: expected a number of layers, 0 "
            "or more; leave it out for one layer."
        )


def check_smallest_effects(
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
