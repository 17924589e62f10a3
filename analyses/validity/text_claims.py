"""Error rates of claims on running text: called true, or reversed.

What layers cost a text is made up; answers to questions are those of ``published_claims``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from analyses.validity.published_claims import (
    N_LAYERS,
    N_RUNS,
    TASKS,
    Damage,
    World,
    flat,
    made_up_cells,
    rates_in_world,
)
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.storage.parquet import conform

N_PIECES, N_POSITIONS = 36, 100
TEXT_TASK = "arithmetic"
OWN = 0.6  # spread over pieces of what a layer costs, as that of its logarithm
RIPPLE = 0.02  # bits per byte that any change moves a piece up or down


class TextWorld(NamedTuple):
    """Losses of running text without layers, and the answers of a model to questions."""

    name: str
    bits: Damage  # bits lost per byte without each layer
    answers: World
    kept: Mapping[str, float] = {"skip": 0.8, "swap": 0.8}  # next tokens that stay, by change
    holds: bool = False  # whether the claim is true
    opposite: bool = False


def made_up_text(rng: np.random.Generator, world: TextWorld) -> pd.DataFrame:
    """The table of running text of a run in a world."""
    rows: list[dict[str, Any]] = []
    layers = np.arange(N_LAYERS)
    for piece in range(N_PIECES):
        n_bytes, easy = int(rng.integers(300, 600)), rng.normal(0, 0.35)
        nats = float(n_bytes * rng.uniform(0.5, 0.9))
        same = {"piece": piece, "cluster": str(piece), "n_bytes": n_bytes, "n_tokens": 127}
        same["n_positions"] = N_POSITIONS
        rows.append(same | {"intervention": "intact", "kind": "intact", "nats": nats, "agree": 1.0})
        for kind, share in world.kept.items():
            at = layers if kind == "skip" else layers[:-1]
            own = np.exp(OWN * rng.standard_normal(len(at)) - OWN**2 / 2)
            lost = world.bits[at] * own + RIPPLE * rng.standard_normal(len(at))
            # The mean over pieces of a logistic normal is not its middle: shifted to the share.
            draws = 1 / (1 + np.exp(-_centre(share) - easy - 0.3 * rng.standard_normal(len(at))))
            agree = rng.binomial(N_POSITIONS, draws) / N_POSITIONS
            rows += [
                same | {"intervention": f"{kind}:{layer}", "kind": kind, "layer": int(layer),
                        "nats": nats + n_bytes * np.log(2) * bits, "agree": kept}
                for layer, bits, kept in zip(at, lost, agree, strict=True)
            ]  # fmt: skip
    return conform("text_loss", pd.DataFrame(rows))


@cache
def _centre(share: float) -> float:
    """The logit around which pieces and layers spread, so that their mean is ``share``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    spread = float(np.hypot(0.35, 0.3))

    def away(middle: float) -> float:
        means = (weights / (1 + np.exp(-middle - spread * nodes))).sum() / weights.sum()
        return float(means) - share

    return float(brentq(away, -10, 10))


def orders_with(rho: float, seed: int = 0) -> Damage:
    """Ranks of layers whose rank correlation with the order of layers is just beyond ``rho``."""
    rng, ranks = np.random.default_rng([seed, 7]), np.arange(N_LAYERS, dtype=float)
    mixed = np.array([
        np.argsort(np.argsort(w * ranks + 8 * rng.standard_normal(N_LAYERS)))
        for w in np.linspace(-3, 3, 4001)
    ]).astype(float)  # fmt: skip
    found = 1 - 6 * ((mixed - ranks) ** 2).sum(axis=1) / (N_LAYERS * (N_LAYERS**2 - 1))
    far = np.abs(found) >= abs(rho)
    return mixed[np.where(far, np.abs(found - rho), np.inf).argmin()]


def text_worlds() -> list[TextWorld]:
    """Worlds with a known rank correlation of what layers cost text and questions."""
    ranks = np.arange(N_LAYERS, dtype=float)

    def world(name: str, rho: float, largest: float, **truth: bool) -> TextWorld:
        # What text loses rises fast with its rank, as it does in models.
        bits = 0.02 * np.exp(orders_with(rho) / 5)
        damage = {task: largest * (ranks + 1) / N_LAYERS for task in TASKS}
        return TextWorld(name, bits, World(name, damage), **truth)

    none = World("no layer matters", {task: flat(0.0) for task in TASKS})
    return [
        world("unrelated", 0.0, 8.0, holds=True),
        world("unrelated, small losses", 0.0, 2.0, holds=True),
        world("rho = 0.5", 0.5, 8.0, opposite=True),
        world("rho = 0.5, small losses", 0.5, 2.0, opposite=True),
        world("rho = -0.5", -0.5, 8.0),
        world("rho = 0.9, small losses", 0.9, 1.0, opposite=True),
        world("rho = 0.9, tiny losses", 0.9, 0.5, opposite=True),
        world("rho = -0.9, small losses", -0.9, 1.0),
        TextWorld("no layer costs answers", 0.02 * np.exp(ranks / 5), none),
    ]


def kept_worlds() -> list[TextWorld]:
    """Worlds whose next tokens stay as often as the bound of lad-2, or on both sides of it."""
    shares = {
        "both at the bound": (0.72, 0.72), "swap at the bound": (0.9, 0.72),
        "skip at the bound from below": (0.72, 0.5), "one on each side": (0.9, 0.5),
    }  # fmt: skip
    none = World("no layer matters", {task: flat(0.0) for task in TASKS})
    return [
        TextWorld(name, flat(0.1), none, dict(zip(("skip", "swap"), both, strict=True)))
        for name, both in shares.items()
    ]


def text_verdict_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate of false verdicts of the claims on running text, were each asked alone."""
    rows: list[dict[str, Any]] = []
    for claim, every in (("neeraj-1", text_worlds()), ("lad-2", kept_worlds())):
        for number, world in enumerate(every):
            rng = np.random.default_rng([seed, 100 + number])

            def evidence(
                rng: np.random.Generator = rng, world: TextWorld = world, claim: str = claim
            ) -> Evidence:
                cells = made_up_cells(rng, world.answers) if claim == "neeraj-1" else []
                return Evidence.from_cells(
                    [cell for cell in cells if cell.task == TEXT_TASK],
                    lambda _, protocol: 0.0 if protocol == "generate" else 0.25,
                    N_LAYERS, {"text_loss": made_up_text(rng, world)},
                )  # fmt: skip

            false = [side for side in ("holds", "opposite") if not getattr(world, side)]
            rows += rates_in_world(world.name, evidence, {claim: false}, n_runs)
    return pd.DataFrame(rows)
