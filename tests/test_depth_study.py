"""The saved simulations of depths: what the page on validity says of them, and that they repeat."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from tests.test_validity_study import FOLDER, part

PAGE = (FOLDER.parents[1] / "docs" / "validity.md").read_text()


def saved(name: str) -> pd.DataFrame:
    return pd.read_parquet(FOLDER / "results" / f"depth_{name}.parquet")


def test_intervals_cover_in_every_cell():
    table = saved("intervals")
    rate = table["covered"] / table["sets"]
    assert rate.min() > 0.9
    assert (table["covered_centre"] / table["sets"]).min() > 0.9
    assert f"{100 * rate.min():.1f} % or more of the data sets in each of {len(table):,}" in PAGE
    assert f"{100 * rate.mean():.1f} % on average" in PAGE
    assert f"In {100 * (rate > 0.98).mean():.0f} % of the cells they cover more" in PAGE
    false = (table["told"] - table["told_covered"]) / table["sets"]
    assert f"at most {100 * false.max():.1f} % of all data sets" in PAGE


def test_equal_depths_are_told_apart_no_more_often_than_is_nominal():
    table = saved("orders")
    same = table.loc[table["apart"] == 0]
    assert set(same["paired"]) == {False, True}
    rate = same["rejected"] / same["sets"]
    assert (same["rejected"] <= binom.ppf(0.999, same["sets"], 0.05)).all()
    assert rate.mean() < 0.05
    assert f"p < 0.05 in {100 * rate.mean():.1f} % of the data sets on average" in PAGE
    assert f"at most {100 * rate.max():.1f} % of the 300 of one of {len(same)} pairs" in PAGE
    far = table.loc[(table["apart"] > 0) & (table["layers"] == 8) & (table["items"] >= 100)]
    assert (far.loc[far["other_items"] >= 100, "rejected"] / 300 > 0.8).all()


def test_orders_by_ablation_are_claimed_falsely_as_rarely_as_is_nominal():
    study, table = part("order_claims"), pd.read_parquet(FOLDER / "results/order_claims.parquet")
    worlds = study.worlds()
    assert list(dict.fromkeys(table["world"])) == [world.name for world in worlds]
    assert table["low"].max() <= 0.05
    found = table.loc[table["order"] & (table["items"] == 200)].set_index("world")["found"]
    far = [name for name in found.index if "any layer costs" not in name]
    assert (found[far] / study.N_SETS > 0.9).all()


@pytest.mark.slow
def test_orders_where_both_lose_in_the_same_layers_are_rarely_claimed():
    study = part("order_claims")
    rng, none = np.random.default_rng(0), [world for world in study.worlds() if not world.order]
    false = sum(study.claimed_order(world.draw(rng, 50)) != 0 for world in none for _ in range(10))
    assert false <= binom.ppf(0.999, 10 * len(none), 0.05)


def test_only_the_estimator_in_use_holds_in_all_cells():
    table, names = saved("candidates"), part("depth_candidates")
    worst = table.groupby("estimator").agg(
        covered=("covered", "min"), other=("other_covered", "min"), different=("different", "max")
    )
    least = worst[["covered", "other"]].min(axis=1)
    assert set(worst.index) == {*names.ESTIMATORS, names.INVERTED}
    assert least.loc[names.INVERTED] >= 90
    assert worst.loc[names.INVERTED, "different"] <= 7
    assert (least.drop(names.INVERTED) < 90).all()
    assert (worst.drop(names.INVERTED)["different"] > 7).all()


def test_curves_that_are_read_are_covered():
    table = saved("curves")
    alone = table["other"].isna()
    rate = table[["inverted", "percentile"]].div(table["sets"], axis=0)
    assert rate.loc[alone, "inverted"].min() > 0.9
    assert rate.loc[~alone, "inverted"].max() <= 0.07
    worst = rate.loc[alone, "percentile"].min(), rate.loc[~alone, "percentile"].max()
    assert worst == (pytest.approx(0.8775), pytest.approx(0.12))
    assert f"{100 * worst[1]:.1f} % (20 items each" in PAGE


def test_saved_cells_are_those_that_the_study_makes():
    grid, cases = part("depth_grid"), part("depth_cases")
    table = saved("intervals")
    case = cases.Case(8, 40, {2: 1.0}, 0.05, 0.8)
    mine = table.loc[
        (table["layers"] == 8) & (table["shape"] == "one") & (table["items"] == 40)
        & (table["effect"] == 1.0) & (table["flips"] == 0.05) & (table["accuracy"] == 0.8)
        & (table["noise"] == "independent")
    ]  # fmt: skip
    found = grid._covered(case, int(mine["sets"].iloc[0]))
    for name in ("covered", "covered_centre", "told", "told_covered"):
        assert found[name] == mine[name].iloc[0], name
