"""Prediction depths, their means and tests, on readings whose answer is planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from layerwise import stats
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.logit_lens.result import answers_on_top, settling_layer
from layerwise.report import report
from layerwise.results import LensResult
from layerwise.storage.parquet import frame
from tests import analysis
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model
from tests.synthetic import facts, task_facts
from tests.test_validity_study import FOLDER, part

N_LAYERS = 11


@settings(deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_settled_is_the_first_layer_after_which_nothing_else_is_on_top(rows):
    for row, found in zip(rows, settling_layer(np.array(rows)), strict=True):
        whole = [layer for layer in range(-1, 4) if all(row[layer + 1 :])]
        # What is on top at the end is the final answer itself, unless nothing is.
        assert found == (whole[0] if whole else 4)


def lens_reading(depths: dict[str, list[int]], wrong: dict[str, int] | None = None) -> LensResult:
    """Answers that come on top after a given layer, flicker once before, and then stay.

    Of each task ``wrong`` gives how many further items end with another answer on top.
    """
    rows = []
    for name, layers in depths.items():
        task, capability = name.split("/")
        n_wrong = (wrong or {}).get(name, 0)
        for i, settled_at in enumerate([*layers, *[0] * n_wrong]):
            for layer in range(-1, N_LAYERS):
                on_top = layer >= settled_at or layer == settled_at - 2
                rank = 0 if on_top else 7
                right = i < len(layers)
                rows.append(
                    {
                        "task": task, "capability": capability, "item": f"{task}/{i:04d}",
                        "protocol": "letter", "lens": "logit", "over": "prompt",
                        "site": "resid_post", "layer": layer, "pos": -1,
                        "token": "abcd"[i % 4],
                        "rank": rank if right else 3, "final_rank": rank,
                        "logprob": -0.1 if on_top else -5.0, "entropy": 1.0, "kl": 0.1,
                        "top_tokens": ["a"],
                    }
                )  # fmt: skip
    asked = [
        task_facts(*name.split("/"), n_items=len(layers) + (wrong or {}).get(name, 0))
        for name, layers in depths.items()
    ]
    return LensResult(frame("lens", rows), facts(*asked, n_layers=N_LAYERS))


def test_planted_depths_are_found_exactly():
    result = lens_reading({"keys/retrieval": [5] * 20, "sums/reasoning": [8] * 15 + [-1] * 5})
    depths = result.prediction_depths().set_index("item")
    assert list(depths.reset_index().columns) == [
        "item", *[c for c in analysis.documented_columns("prediction_depth.parquet")
                  if c != "item"],
    ]  # fmt: skip
    assert set(depths.loc[depths["task"] == "keys", "layer"]) == {5}
    assert depths.loc[[f"sums/{i:04d}" for i in range(20)], "layer"].tolist() == [8] * 15 + [-1] * 5
    assert depths.loc["sums/0019", "depth"] == 0
    assert depths["right"].all()
    means = result.derived_tables()["prediction_depth_means"].set_index("capability")
    # all are alike, and as many as the sample would not show may settle at either end
    unseen = (1 - 0.025 ** (1 / 20)) / 2
    assert means.loc["retrieval", ["depth", "low", "high"]].tolist() == pytest.approx(
        [0.5, 0.5 - unseen, 0.5 + unseen]
    )
    assert means.loc["reasoning", "depth"] == pytest.approx(0.6)
    assert means.loc["reasoning", "low"] < 0.6 < means.loc["reasoning", "high"]


def test_the_comparison_is_scipys_test_and_corrected():
    rng = np.random.default_rng(0)
    drawn = {
        f"{c}/{c}": rng.integers(low, low + 4, 30).tolist()
        for c, low in (("retrieval", 2), ("knowledge", 3), ("reasoning", 6))
    }
    table = lens_reading(drawn).derived_tables()["prediction_depth_comparisons"]
    assert list(table.columns) == analysis.documented_columns(
        "prediction_depth_comparisons.parquet"
    )
    assert len(table) == 3
    for row in table.itertuples():
        first, second = (np.array(drawn[f"{c}/{c}"]) for c in (row.first, row.second))
        expected = reference.mannwhitneyu(second, first)
        assert row.p == pytest.approx(expected.pvalue)
        later = (second[:, None] > first) + 0.5 * (second[:, None] == first)
        assert row.later == pytest.approx(later.mean())
        assert row.difference == pytest.approx((second.mean() - first.mean()) / (N_LAYERS - 1))
        assert row.low < row.difference < row.high
    assert table["p_holm"].tolist() == pytest.approx(stats.holm(table["p"].to_numpy()).tolist())
    clear = table.loc[table["second"] == "reasoning"]
    assert clear["significant"].all()


def test_shares_on_top_are_counts_with_exact_intervals():
    """A quarter is on top from layer 2 on, all from 6 on, and each two layers earlier once."""
    found = answers_on_top(lens_reading({"keys/retrieval": [2] * 5 + [6] * 15}).lens)
    by_layer = found.set_index("layer")
    shares = [0.0, 0.25, 0.0, 0.25, 0.25, 1.0, 0.25]  # from layer -1 on
    assert by_layer["on_top"].tolist() == shares + [1.0] * (len(found) - len(shares))
    expected = reference.binomtest(5, 20).proportion_ci()
    assert by_layer.loc[3, ["low", "high"]].tolist() == pytest.approx(expected)
    assert set(found["n_items"]) == {20}


def test_nothing_is_claimed_without_signal_nor_of_wrong_answers():
    depths = {"keys/retrieval": [5] * 12, "sums/reasoning": [2] * 6}
    result = lens_reading(depths, wrong={"keys/retrieval": 4, "sums/reasoning": 14})
    found = result.derived_tables()
    assert (found["prediction_depth"].groupby("task")["right"].sum() == [12, 6]).all()
    means = found["prediction_depth_means"]
    assert means["capability"].tolist() == ["retrieval"]
    assert means["n_items"].tolist() == [12]
    assert means["depth"].tolist() == [0.5]
    assert not len(found["prediction_depth_comparisons"])


@pytest.mark.long
def test_equal_depths_are_no_difference():
    rng = np.random.default_rng(1)
    n_false, n_sets = 0, data_sets(60)
    for _ in range(n_sets):
        same = {f"{c}/{c}": rng.integers(3, 8, 25).tolist() for c in ("retrieval", "reasoning")}
        n_false += int(
            lens_reading(same).derived_tables()["prediction_depth_comparisons"]["significant"].sum()
        )
    assert n_false <= most_errors(n_sets)


def test_nothing_settles_later_whose_mean_does_not():
    """Three of four items settle one layer later, the others so much earlier as makes up for it."""
    alike = {"keys/retrieval": [5] * 40, "sums/reasoning": [6] * 30 + [2] * 10}
    later = {"keys/retrieval": [5] * 40, "sums/reasoning": [8] * 40}
    for depths, told in ((alike, 0), (later, 1)):
        result = lens_reading(depths)
        assert result.derived_tables()["prediction_depth_comparisons"]["significant"].all()
        said = [f for f in report(result).findings if f.short.startswith("Answers stay on top")]
        assert len(said) == told
        assert all("no order of the capabilities" in claim.caveat for claim in said)


@pytest.mark.long
def test_answers_with_fewer_rivals_make_no_order():
    """They are on top and probable earlier, where the answer's logit rises alike."""
    study = part("lens_claims")
    rates = study.lens_rates(n_sets=1).set_index("world")
    assert rates["differ"].tolist() == [0, 1]
    assert not rates["false"].any()


def test_the_saved_rates_show_that_rivals_alone_make_a_difference():
    table = pd.read_parquet(FOLDER / "results" / "lens_claims.parquet")
    assert table["world"].tolist() == list(part("lens_claims").WORLDS)
    assert not table["false"].any()
    assert (table["differ"] / table["sets"]).tolist() == [pytest.approx(0, abs=0.1), 1.0]


def test_emergence_has_the_same_depths_and_tests_their_order():
    result = lens_reading(
        {"keys/retrieval": [5] * 20, "sums/reasoning": [8] * 20},
        wrong={"keys/retrieval": 3, "sums/reasoning": 2},
    )
    found = emergence([result], n_resamples=500)
    mine = found.emergence.loc[found.emergence["measure"] == "prediction depth"]
    assert mine["method"].tolist() == ["logit lens"] * 2
    assert mine["layer"].tolist() == [5, 8]
    assert mine["n_items"].tolist() == [20, 20]
    order = found.order.loc[found.order["measure"] == "prediction depth"]
    assert order["difference"].tolist() == [pytest.approx(0.3)]
    assert order["p_holm"].iloc[0] < 0.05


def test_its_interval_in_emergence_is_fieller_s():
    layers = np.random.default_rng(5).integers(3, 9, 20).tolist()
    result = lens_reading({"keys/retrieval": layers}, wrong={"keys/retrieval": 3})
    table = emergence([result], n_resamples=300).emergence
    (row,) = table.loc[table["measure"] == "prediction depth"].to_dict("records")
    right = result.prediction_depths().sort_values("item")
    depth, counts = right["layer"].to_numpy(dtype=float), right["right"].to_numpy(dtype=bool)
    above, below, n = depth * counts, counts.astype(float), len(counts)
    (a, c), (_, b) = np.cov(above, below) / n
    level = reference.t.ppf(0.975, n - 1) ** 2
    roots = np.roots([below.mean() ** 2 - level * b, -2 * (above.mean() * below.mean() - level * c),
                      above.mean() ** 2 - level * a])  # fmt: skip
    assert row["layer"] == pytest.approx(depth[counts].mean())
    assert [row["layer_low"], row["layer_high"]] == pytest.approx(sorted(roots), abs=1e-5)
    assert row["estimate"] == pytest.approx(row["layer"] / (N_LAYERS - 1))
    assert row["n_items"] == counts.sum()


def test_the_order_of_a_few_items_is_no_surer_than_an_exact_test_of_them():
    result = lens_reading({"keys/retrieval": [5] * 4, "sums/reasoning": [8] * 4})
    table = emergence([result], n_resamples=2000).order
    (row,) = table.loc[table["measure"] == "prediction depth"].to_dict("records")
    exact = reference.mannwhitneyu([5] * 4, [8] * 4, method="exact").pvalue
    assert row["difference"] > 0
    assert row["p"] >= exact == pytest.approx(2 / 70)


def test_depths_of_a_real_reading_are_those_of_its_own_top_tokens():
    model = tiny_model("llama")
    task = analysis.with_preferred_answers(model, analysis.word_task(6))
    result = logit_lens(model, task, "continuation", sites=("resid_mid", "resid_post"),
                        positions=(-2, -1), progress=False)  # fmt: skip
    depths = result.prediction_depths().set_index("item")["layer"]
    at = {"site": "resid_post", "pos": -1}
    lens = result.lens.loc[(result.lens[list(at)] == list(at.values())).all(axis=1)]
    for item, mine in lens.groupby("item"):
        on_top = dict(zip(mine["layer"], mine["final_rank"] == 0, strict=True))
        layer = model.cfg.n_layers - 1
        while on_top.get(layer - 1, False):
            layer -= 1
        assert depths[item] == layer


def test_a_reading_without_the_answers_place_has_no_depths():
    result = logit_lens(tiny_model("llama"), analysis.word_task(2), "continuation",
                        positions=(-2,), progress=False)  # fmt: skip
    assert result.derived_tables() == {}
    assert isinstance(result.prediction_depths(), pd.DataFrame)
