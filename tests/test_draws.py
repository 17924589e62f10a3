"""Several draws of noise or of donors for an item: they are averaged, and are no further items."""

from __future__ import annotations

import json
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import permutation_test

from layerwise import ablate
from layerwise.analyses.ablation.spec import resampling_partners, with_own_draws
from layerwise.errors import UserError
from layerwise.stats.effects import cells, effects_table
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.sweep import LogLikelihood, noise, noise_basis, site_noise
from layerwise.sweep.activations import intact_run as reading
from tests.analysis import with_preferred_answers, word_task
from tests.cases import in_long_runs
from tests.models.tiny import tiny_model

KEY = ["intervention", "task", "item", "protocol"]
GIVEN = {"site": "mlp_out", "layers": [0, 1], "progress": False}
DRAWN = ("noise", "resample")


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


@pytest.mark.parametrize("kind", DRAWN)
def test_the_first_draw_is_what_it_is_without_others(model, kind):
    alone = ablate(model, word_task(5), kind=kind, **GIVEN)
    several = ablate(model, word_task(5), kind=kind, draws=3, **GIVEN)
    first = several.records.loc[several.records["draw"].fillna(0) == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        first.sort_values(KEY, ignore_index=True),
        alone.records.sort_values(KEY, ignore_index=True),
        atol=1e-4,
    )
    pd.testing.assert_frame_equal(several.signal(), alone.signal())
    assert several.facts.settings["draws"] == 3
    assert "draws" not in alone.facts.settings


@pytest.mark.long(but=["noise"])
@pytest.mark.parametrize("kind", DRAWN)
def test_the_engine_gives_every_draw_what_the_reference_gives(model, kind):
    one, other = (
        ablate(model, word_task(4), kind=kind, draws=3, method=method, **GIVEN | {"layers": [1]})
        for method in ("engine", "reference")
    )
    assert one.records[[*KEY, "draw"]].equals(other.records[[*KEY, "draw"]])
    for name in ("gold_logprob", "margin"):
        mine, theirs = (r.records[name].to_numpy(dtype=float) for r in (one, other))
        assert mine == pytest.approx(theirs, abs=1e-4, nan_ok=True)
    assert one.records["generated"].equals(other.records["generated"])
    by_draw = one.records.groupby("draw")["gold_logprob"].sum()
    assert len(set(by_draw.round(4))) == 3


def test_donors_of_several_draws_are_other_items_each_time():
    items = word_task(6).items
    ids = {item.id for item in items}
    donors = [resampling_partners(0, items, "words", draw) for draw in range(5)]
    for item in items:
        assert {donor[item.id].id for donor in donors} == ids - {item.id}
    assert {donor.id for donor in donors[0].values()} == ids  # each prompt serves once
    assert resampling_partners(4, items, "words") != donors[0]
    with pytest.raises(UserError, match="can be resampled from 5 others"):
        resampling_partners(0, items, "words", 5)
    with pytest.raises(UserError, match="takes activations from another one; take more items"):
        resampling_partners(3, items[:1], "words")


def test_what_each_item_is_resampled_from_is_written(model, tmp_path):
    ablate(model, word_task(4), "continuation", kind="resample", draws=2, out=tmp_path, **GIVEN)
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    own = [line for line in lines if "source_tokens" in line]
    sources = {}
    for line in own:
        sources.setdefault(line["item"], set()).add(tuple(line["source_tokens"]))
    assert all(len(found) == 2 for found in sources.values())
    assert len(sources) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "skip", "draws": 2}, "draws nothing; use resample or noise"),
        ({"kind": "noise", "site": "mlp_out", "draws": 0}, "at least 1"),
    ],
)
def test_draws_that_cannot_be_are_refused(model, options, told):
    with pytest.raises(UserError, match=told):
        ablate(model, word_task(3), progress=False, **options)


def made_up_noise_records(n: int, n_draws: int, seed: int = 0) -> pd.DataFrame:
    """Records of an intact model and of noise in two layers, with so many draws."""
    rng = np.random.default_rng(seed)
    rows = []
    for item, (layer, draw) in product(range(n), [(None, None), *product((0, 1), range(n_draws))]):
        lost = 0.0 if layer is None else float(rng.normal(layer + 0.5 * (item % 3), 1.0))
        changed = layer is not None
        row = {"task": "t", "capability": "reasoning", "protocol": "continuation"}
        row |= {"item": f"{item:03d}", "draw": draw, "layer": layer}
        row |= {"intervention": "intact", "kind": "intact", "site": None, "layers": []}
        if changed:
            row |= {"intervention": f"noise:layer={layer}", "kind": "noise"}
            row |= {"site": "mlp_out", "layers": [layer]}
        row |= {"correct": bool(rng.random() < (0.6 if changed else 0.9))}
        rows.append(row | {"gold_logprob": -1.0 - lost, "margin": 1.0 - lost})
    return pd.DataFrame(rows)


def records_effects(records: pd.DataFrame) -> pd.DataFrame:
    return effects_table(records, lambda *_: 0.25, 0)


def test_draws_that_are_all_the_same_say_nothing_more():
    once = made_up_noise_records(40, 1)
    noisy = once.loc[once["kind"] == "noise"]
    thrice = pd.concat([once, *(noisy.assign(draw=draw) for draw in (1, 2))], ignore_index=True)
    one, three = records_effects(once), records_effects(thrice)
    assert three["n_draws"].tolist() == [3, 3]
    pd.testing.assert_frame_equal(one.drop(columns="n_draws"), three.drop(columns="n_draws"))


def test_effects_are_those_of_the_mean_over_an_items_draws():
    records = made_up_noise_records(12, 3)
    found = records_effects(records)
    intact = records.loc[records["kind"] == "intact"].set_index("item")
    for layer in (0, 1):
        row = found.loc[found["layer"] == layer].iloc[0]
        means = (
            records.loc[records["layer"] == layer]
            .groupby("item")[["correct", "gold_logprob", "margin"]]
            .mean()
        )
        lost = (intact[means.columns].astype(float) - means).reindex(intact.index)
        assert row["acc_diff"] == pytest.approx(lost["correct"].mean())
        assert row["nats"] == pytest.approx(lost["gold_logprob"].mean())
        assert row["margin"] == pytest.approx(lost["margin"].mean())
        flips = permutation_test(
            (lost["correct"].to_numpy(),), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert row["p"] == pytest.approx(flips.pvalue)
        assert row["n_lost"] == round(float(np.maximum(lost["correct"], 0).sum()))


def test_a_draw_that_some_items_lack_is_refused():
    records = made_up_noise_records(6, 2)
    with pytest.raises(UserError, match="incomplete or doubled"):
        list(cells(records.drop(index=records.index[-1])))
    with pytest.raises(UserError, match="incomplete or doubled"):
        list(cells(pd.concat([records, records.tail(1)], ignore_index=True)))


@pytest.mark.long
def test_several_draws_are_left_out_where_single_answers_are_counted(model):
    task = with_preferred_answers(model, word_task(24))
    both = ablate(model, task, "continuation", kind="noise", draws=2, **GIVEN)
    assert not both.ladder().empty
    assert both.ladder_steps()["dissociations"].empty


# Answers that noise flips for nothing, as often lost as gained: (right, flips of right answers,
# how unlike items are).
FLIPS = ((0.6, 0.2, 1e6), (0.6, 0.2, 1.0), (0.9, 0.05, 1.0), (0.8, 0.02, 0.3), (0.95, 0.04, 1.0))


@pytest.mark.parametrize(
    ("n", "n_draws"),
    [(20, 5), (40, 2), *in_long_runs((20, 2), (40, 5), (100, 2), (100, 5))],
)
def test_draws_that_change_nothing_on_average_are_seldom_significant(n, n_draws):
    rng = np.random.default_rng(n + n_draws)
    for right, flipped, alike in FLIPS:
        intact = rng.random((n, 2000)) < right
        lost, gained = (
            rng.beta(rate * alike, (1 - rate) * alike, intact.shape)
            for rate in (flipped, right * flipped / (1 - right))
        )
        answers = rng.binomial(n_draws, np.where(intact, 1 - lost, gained))
        p = paired_p_values(n_draws * intact - answers, Clusters.singletons(n))
        assert (p < 0.05).mean() < 0.065


CONTEXTS = [(1, 5, 9, 2, 7), (1, 4, 4, 8), (3, 2, 6, 6, 5, 1)]


def edit_draws(changes, item: str, n: int) -> torch.Tensor:
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
    drawn = edit_draws([noise(site, 1, exact)], "item", 20_000).flatten(1).double()
    assert torch.allclose(covariance, drawn.T @ drawn / len(drawn), **nearly)
    monkeypatch.setattr(reading, "MOST_EXACT", 4)
    assert len(noise_basis(model, CONTEXTS, [site], seed=0)[site, 1]) == 4


def test_items_have_draws_of_their_own_whatever_else_they_are_asked(model):
    table = noise_basis(model, CONTEXTS, ["z"], seed=0)
    changes = [noise("z", 1, table["z", 1], head) for head in (0, 1)]
    one, longer, other = (
        edit_draws(changes, item, n) for item, n in (("a", 5), ("a", 9), ("b", 5))
    )  # fmt: skip
    assert torch.equal(one, longer[: len(one)])
    assert len(one) == 5 + 1 + 1
    assert not torch.isclose(one, other).any()
    both = with_own_draws(changes, [LogLikelihood((1, 2), (3,))], 0, "task", "a")
    assert both[0].edits[0].value is both[1].edits[0].value
    assert [change.id for change in both] == [change.id for change in changes]


@pytest.mark.long
def test_runs_of_other_seeds_find_what_the_intervals_allow(model):
    """Of draws that all items share, 10 of 135 intervals are disjoint here."""
    options = {"kind": "noise", "site": "mlp_out", "protocols": "continuation", "progress": False}
    found = [ablate(model, word_task(32), seed=seed, **options).effects() for seed in range(4)]
    for one, other in combinations(found, 2):
        apart = np.maximum(one["nats_low"], other["nats_low"]) > np.minimum(
            one["nats_high"], other["nats_high"]
        )
        assert not apart.any()
    spread = np.std([table["nats"] for table in found], axis=0, ddof=1)
    error = np.mean([(table["nats_high"] - table["nats_low"]) / 3.92 for table in found], axis=0)
    assert 0.4 < np.sqrt((spread**2).mean() / (error**2).mean()) < 1.6
