"""Noise that every item has for itself: its covariance, and what runs of other seeds find."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from layerwise import ablate
from layerwise.analyses.ablation.item_draws import with_own_draws
from layerwise.sweep import LogLikelihood, noise, noise_basis, site_noise
from layerwise.sweep.activations import intact_run as reading
from tests.analysis import word_task
from tests.models.tiny import tiny_model

CONTEXTS = [(1, 5, 9, 2, 7), (1, 4, 4, 8), (3, 2, 6, 6, 5, 1)]


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


def draws_of(changes, item: str, n: int) -> torch.Tensor:
    """Draws of an item's first edit, with so many tokens in its context."""
    asked = [LogLikelihood(tuple([1] * n), (2,))]
    return with_own_draws(changes, asked, 0, "task", item)[0].edits[0].value


@pytest.mark.parametrize("site", ["mlp_out", "z"])
def test_draws_have_the_covariance_of_the_site(model, site, monkeypatch):
    exact = noise_basis(model, CONTEXTS, [site], seed=0)[site, 1]
    flat = exact.flatten(1).double()
    covariance = flat.T @ flat / len(flat)
    many = site_noise(model, CONTEXTS, [site], seed=0, n_draws=20_000)[site, 1].flatten(1).double()
    nearly = {"atol": 0.05 * float(covariance.max()), "rtol": 0.0}
    assert torch.allclose(covariance, many.T @ many / len(many), **nearly)
    drawn = draws_of([noise(site, 1, exact)], "item", 20_000).flatten(1).double()
    assert torch.allclose(covariance, drawn.T @ drawn / len(drawn), **nearly)
    monkeypatch.setattr(reading, "MOST_EXACT", 4)
    assert len(noise_basis(model, CONTEXTS, [site], seed=0)[site, 1]) == 4


def test_items_have_draws_of_their_own_whatever_else_they_are_asked(model):
    table = noise_basis(model, CONTEXTS, ["z"], seed=0)
    changes = [noise("z", 1, table["z", 1], head) for head in (0, 1)]
    one, longer, other = (
        draws_of(changes, item, n) for item, n in (("a", 5), ("a", 9), ("b", 5))
    )  # fmt: skip
    assert torch.equal(one, longer[: len(one)])
    assert len(one) == 5 + 1 + 1
    assert not torch.isclose(one, other).any()
    both = with_own_draws(changes, [LogLikelihood((1, 2), (3,))], 0, "task", "a")
    assert both[0].edits[0].value is both[1].edits[0].value
    assert [change.id for change in both] == [change.id for change in changes]


def test_runs_of_other_seeds_find_what_the_intervals_allow(model):
    """Of draws that all items share, 10 of 135 intervals are disjoint here."""
    found = [
        ablate(
            model,
            word_task(32),
            kind="noise",
            site="mlp_out",
            protocols=["continuation"],
            seed=seed,
            progress=False,
        ).effects()
        for seed in range(5)
    ]
    for one, other in combinations(found, 2):
        apart = np.maximum(one["nats_low"], other["nats_low"]) > np.minimum(
            one["nats_high"], other["nats_high"]
        )
        assert not apart.any()
    spread = np.std([table["nats"] for table in found], axis=0, ddof=1)
    error = np.mean([(table["nats_high"] - table["nats_low"]) / 3.92 for table in found], axis=0)
    assert 0.4 < np.sqrt((spread**2).mean() / (error**2).mean()) < 1.6


def test_the_engine_gives_the_items_what_the_reference_gives(model):
    given = {"kind": "noise", "site": "mlp_out", "layers": [1], "progress": False}
    one, other = (ablate(model, word_task(3), method=m, **given) for m in ("engine", "reference"))
    for name in ("gold_logprob", "margin"):
        assert one.records[name].to_numpy(dtype=float) == pytest.approx(
            other.records[name].to_numpy(dtype=float), abs=1e-4, nan_ok=True
        )
    assert one.records["generated"].equals(other.records["generated"])
