"""Agreement of methods, on tables with planted agreement or disagreement."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from layerwise import stats
from layerwise.analyses.emergence.api import CENTRE, HALF, emergence
from layerwise.results import AttributionResult, LensResult
from layerwise.stats.depth.depths import cumulative_share, half_depth
from tests import synthetic
from tests.cases import data_sets, most_errors
from tests.synthetic import cell_records, planted_answers

RANKS = "rank correlation"


def step(layer: int, n_items: int = 20, n_layers: int = 8) -> np.ndarray:
    curve = (np.arange(n_layers + 1) >= layer + 1).astype(float)
    return np.repeat(curve[None], n_items, axis=0)


def test_methods_that_name_one_layer_agree_exactly():
    added = np.diff(step(5), prepend=0.5, axis=1)
    right = np.ones((20, 9), bool)
    right[:, 1 + 5] = False
    ablation = synthetic.ablation(
        *(cell_records(right, "keys", "retrieval", name) for name in ("letter", "generate"))
    )
    found = emergence(
        [
            ablation,
            synthetic.lens(-9 + 8 * step(5), "keys", "retrieval", "continuation"),
            synthetic.patching_result(step(5)[:, :-1], "keys", "retrieval"),
            synthetic.attribution(added, "keys", "retrieval", "continuation"),
        ],
        n_resamples=50,
    ).method_agreement
    # what reads has the prompts of continuation, which are those of generate
    assert set(zip(found["first"], found["second"], found["protocol"], strict=True)) == {
        ("ablation", "activation patching", "generate"),
        ("ablation", "direct attribution", "generate"),
        ("ablation", "logit lens", "generate"),
        ("activation patching", "direct attribution", "continuation"),
        ("activation patching", "logit lens", "continuation"),
        ("direct attribution", "logit lens", "continuation"),
    }
    depths = found.loc[found["measure"] == HALF]
    assert len(depths) == 6
    assert not depths["significant"].any()
    assert np.allclose(depths["estimate"], 0, atol=1e-9)
    assert np.allclose(depths[["first_depth", "second_depth"]], 5 / 7)
    assert (depths["p"] == 1).all()
    ranks = found.loc[found["measure"] == RANKS]
    assert np.allclose(ranks["estimate"], 1)
    assert ranks["first_depth"].isna().all()
    # of seven layers that do nothing it is not known how they would be ranked
    assert (ranks["low"] < 0.5).all()
    assert (ranks["high"] == 1).all()
    assert found["n_items"].eq(20).all()


def test_methods_that_differ_are_told_apart_with_the_difference():
    rng = np.random.default_rng(0)
    right = planted_answers(rng, 60, 8, (1,), 0.95, 0.05)
    noise = rng.normal(0, 0.02, (60, 9))
    lens = synthetic.lens(np.log(0.1 + 0.7 * step(6, 60) + 0.02 + noise.clip(-0.05)), "keys",
                          "retrieval")  # fmt: skip
    found = emergence([synthetic.ablation(cell_records(right, "keys", "retrieval")), lens])
    (half,) = found.method_agreement.query("measure == @HALF").to_dict("records")
    assert half["estimate"] == pytest.approx(5 / 7, abs=0.03)
    assert half["low"] <= half["estimate"] <= half["high"]
    assert half["second_depth"] - half["first_depth"] == pytest.approx(half["estimate"])
    assert half["p_holm"] < 0.01
    assert half["significant"]
    depths = found.emergence.query("measure == @HALF").set_index("method")["estimate"]
    assert half["first_depth"] == pytest.approx(depths["ablation"])
    assert half["second_depth"] == pytest.approx(depths["logit lens"])


def test_estimates_are_by_hand_and_correlations_wider_than_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    right = planted_answers(rng, 40, 8, (2, 5), 0.95, 0.2)
    curve = np.sort(rng.random((40, 9)), axis=1) * 0.9 + 0.05
    found = emergence(
        [
            synthetic.ablation(cell_records(right, "keys", "retrieval")),
            synthetic.lens(np.log(curve), "keys", "retrieval"),
        ],
        n_resamples=200,
    ).method_agreement
    differences, correlations = [], []
    drawn = stats.resample_indices(40, 200, stats.generator(0, "keys"))
    for items in [np.arange(40), *drawn]:
        acc = right[items].mean(axis=0)
        share = (acc[0] - acc[1:]) / (acc[0] - 0.25)
        progress = curve[items].mean(axis=0)
        progress = (progress - progress[0]) / (progress[-1] - progress[0])
        one = half_depth(cumulative_share(share[None]))[0]
        differences.append((half_depth(progress[None])[0] - one) / 7)
        correlations.append(spearmanr(np.round(share, 6), np.diff(progress)).statistic)
    for measure, draws in ((HALF, differences), (RANKS, correlations)):
        (row,) = found.loc[found["measure"] == measure].to_dict("records")
        assert row["estimate"] == pytest.approx(draws[0])
        if measure == RANKS:
            low, high = stats.percentile_bounds(np.array(draws[1:])[:, None], 0.95)
            assert row["low"] < min(low[0], 2 * draws[0] - high[0]) + 0.05
            assert row["high"] > min(1.0, max(high[0], 2 * draws[0] - low[0])) - 0.05
            assert row["low"] > low[0] - 0.35


def test_only_items_of_both_are_compared():
    rng = np.random.default_rng(2)
    right = planted_answers(rng, 40, 8, (3,), 1.0)
    right[20:, 1 + 3] = True
    right[20:, 1 + 6] = False
    ablation = synthetic.ablation(cell_records(right, "keys", "retrieval", "continuation"))
    patch = synthetic.patching_result(step(3, 20)[:, :-1], "keys", "retrieval")
    found = emergence([ablation, patch], n_resamples=100)
    half = found.method_agreement.query("measure == @HALF").iloc[0]
    assert half["n_items"] == 20
    assert half["first_depth"] == half["second_depth"] == pytest.approx(3 / 7)
    whole = found.emergence.query("method == 'ablation' and measure == @HALF").iloc[0]
    assert whole["layer"] > 3.5


def test_what_was_left_out_is_not_compared():
    rng = np.random.default_rng(3)
    dull = cell_records(planted_answers(rng, 40, 8, accuracy=0.95), "keys", "retrieval")
    none = cell_records(planted_answers(rng, 40, 8, (3,), 0.2), "keys", "retrieval", "continuation")
    lenses = [synthetic.lens(-9 + 8 * step(5, 40), *of)
              for of in (("keys", "retrieval"), ("sums", "reasoning"))]  # fmt: skip
    found = emergence([synthetic.ablation(dull, none), *lenses], n_resamples=20)
    assert set(found.emergence["method"]) == {"ablation", "logit lens"}
    assert found.method_agreement.empty


@pytest.mark.long
@pytest.mark.slow
def test_equal_depths_are_rarely_called_different():
    n_sets, claims = data_sets(40), 0
    for i in range(n_sets):
        rng = np.random.default_rng(i)
        right = np.ones((40, 9), bool)
        right[:, 1:] = rng.random((40, 8)) > 0.5
        gains = rng.random((40, 8)) * (rng.random((40, 8)) < 0.5)
        curve = np.column_stack([np.zeros(40), gains.cumsum(axis=1)]) / 9 + 0.05
        found = emergence(
            [
                synthetic.ablation(cell_records(right, "keys", "retrieval", "generate")),
                synthetic.lens(np.log(curve), "keys", "retrieval", "continuation"),
            ],
            n_resamples=200,
        ).method_agreement
        claims += (found.loc[found["measure"] != RANKS, "p_holm"] < 0.05).any()
    assert claims <= most_errors(n_sets)


def test_two_items_cannot_be_sure():
    lens = synthetic.lens(-9 + 8 * step(5, 2), "keys", "retrieval", "continuation", chance=0)
    # of which first tokens the answers begin with is not told, so that stated chance is the floor
    lens = LensResult(lens.lens.assign(token=None), lens.facts)
    patch = synthetic.patching_result(step(1, 2)[:, :-1], "keys", "retrieval")
    found = emergence([lens, patch], n_resamples=1000).method_agreement
    half = found.query("measure == @HALF").iloc[0]
    assert half["estimate"] == pytest.approx(4 / 7)
    assert half["p"] == 0.5


# --- direct attribution as a method ------------------------------------------------------------


def test_attribution_places_a_capability_where_layers_write_the_answer():
    added = np.zeros((20, 9))
    added[:, 0] = -3.0
    added[:, 1 + 4] = 2.0
    added[:, 1 + 6] = np.tile([1.0, 3.0], 10)
    found = emergence([synthetic.attribution(added, "keys", "retrieval")], n_resamples=100)
    table = found.emergence.set_index("measure")
    assert table["method"].eq("direct attribution").all()
    # half of the four nats are written when layer 4 is done
    assert table.loc[HALF, "layer"] == pytest.approx(4.5)
    assert table.loc[CENTRE, "layer"] == pytest.approx(5.0)
    assert table.loc[CENTRE, "layer_low"] < 5.0 < table.loc[CENTRE, "layer_high"]


def test_attribution_without_signal_or_rise_says_nothing():
    rng = np.random.default_rng(4)
    good = synthetic.attribution(np.diff(step(5), prepend=0, axis=1), "keys", "retrieval")
    dull = AttributionResult(good.attribution.assign(correct=False), good.facts)
    flat = synthetic.attribution(rng.normal(0, 1, (20, 9)), "flat", "retrieval")
    gaps = synthetic.attribution(np.diff(step(5), prepend=0, axis=1), "gaps", "retrieval")
    gaps = AttributionResult(gaps.attribution.query("layer != 2 or layer.isna()"), gaps.facts)
    found = emergence([dull, flat, gaps], n_resamples=100)
    assert found.emergence.empty
    assert dict(zip(found.left_out["task"], found.left_out["reason"], strict=True)) == {
        "keys": "no signal: the intact model is not better than blind",
        "flat": "the layers together do not add to the answer's logit difference",
        "gaps": "read at 8 of 9 places: the curve over layers has gaps",
    }
