"""The ladder of scoring on models whose answer is known, against records and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from layerwise import ablate, load_model, stats
from layerwise.analyses.ablation.scoring_steps import ladder_table, step_tables
from layerwise.models.organisms.lettered import PLANS
from layerwise.results import AblationResult
from layerwise.stats.share_tests.scoring_steps import NAMES, SCORING_STEPS, step_records

LETTERED = tuple(PLANS)
# By day a decoder of the one kind and an encoder-decoder of the other.
ONE_OF_EACH = [
    name if ("other" in name) == ("seq2seq" in name) else pytest.param(name, marks=pytest.mark.long)
    for name in LETTERED
]


@pytest.fixture(scope="module")
def brackets() -> AblationResult:
    """Four words an answer: layer 6 is needed for all of them, layer 5 for all but the first."""
    return ablate(
        load_model("organism-decoder"), "organism-brackets", ("continuation", "generate"),
        layers=[0, 4, 5, 6], limit=32, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ladder(brackets: AblationResult) -> pd.DataFrame:
    return brackets.ladder()


def test_each_rung_is_the_mean_of_its_column(brackets: AblationResult, ladder: pd.DataFrame):
    records = brackets.records
    for rung in SCORING_STEPS[1:]:
        mine = records.loc[records["protocol"] == rung.protocol]
        means = mine[rung.column].astype(float).groupby(mine["intervention"]).mean()
        rows = ladder.loc[ladder["rung"] == rung.name].set_index("intervention")
        assert len(rows) == 4
        for name, row in rows.iterrows():
            assert row["changed"] == pytest.approx(means[name])
            assert row["intact"] == pytest.approx(means["intact"])
            assert row["floor"] == pytest.approx(means["no layers"])


def test_the_margins_rung_is_in_nats(brackets: AblationResult, ladder: pd.DataFrame) -> None:
    rows = ladder.loc[ladder["rung"] == "margin"].set_index("intervention")
    records = brackets.records.query("protocol == 'continuation'")
    means = records["margin"].groupby(records["intervention"]).mean()
    assert set(rows["unit"]) == {"nats"}
    for name, row in rows.iterrows():
        lost = means["intact"] - means[name]
        assert row["loss"] == pytest.approx(lost)
        assert row["share_lost"] == pytest.approx(lost / (means["intact"] - means["no layers"]))
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]


def test_a_harder_rung_is_no_other_layers(brackets: AblationResult, ladder: pd.DataFrame) -> None:
    sure = ladder.loc[ladder["significant"] & (ladder["unit"] == "accuracy")]
    layers = {rung: sorted(rows["layer"]) for rung, rows in sure.groupby("rung")}
    assert layers == {"first token": [6], "teacher forcing": [5, 6], "generate": [5, 6]}
    steps = brackets.ladder_steps()["ladder_steps"].set_index(["first", "second"])
    assert not steps["other_layers"].any()
    assert steps.loc[("choice", "first token"), "layers_second"] == [6]
    assert steps.loc[("first token", "teacher forcing"), "layers_second"] == [5]
    assert steps["layers_first"].str.len().sum() == 0
    assert steps.loc[("first token", "teacher forcing"), "p_holm"] < 0.05
    assert steps.loc[("teacher forcing", "generate"), "p"] == 1.0


def test_what_is_forced_right_is_generated(brackets: AblationResult) -> None:
    """The toy language has one way to say an answer, and ends it by itself."""
    forced = brackets.records.query("protocol == 'continuation'")
    free = brackets.records.query("protocol == 'generate'")
    both = forced.merge(free, on=["item", "intervention"])
    both = both.loc[both["kind_x"].isin(["intact", "skip"])]
    assert (both["correct_forced_x"] == both["correct_y"]).mean() > 0.98
    assert (both["correct_first_x"] >= both["correct_forced_x"]).all()


def test_the_difference_of_a_step_by_brute_force(brackets: AblationResult) -> None:
    steps = brackets.ladder_steps()["ladder_steps"].set_index(["first", "second"])
    row = steps.loc[("first token", "teacher forcing")]
    shares = []
    for rung in SCORING_STEPS[2:4]:
        wide = step_records(brackets.records, rung).pivot_table(
            index="item", columns="intervention", values="correct", aggfunc="mean"
        )
        changed = wide[[name for name in wide if str(name).startswith("skip")]].mean(axis=1)
        above = wide["intact"] - wide["no layers"]
        shares.append(((wide["intact"] - changed), above))
    expected = [lost.mean() / above.mean() for lost, above in shares]
    assert [row["share_first"], row["share_second"]] == pytest.approx(expected)
    n = len(shares[0][0])
    drawn = stats.resample_indices(n, 2000, stats.generator(0, "organism-brackets"))
    values = [
        [lost.to_numpy()[i].mean() / above.to_numpy()[i].mean() for lost, above in shares]
        for i in drawn
    ]
    low, high = np.quantile(np.diff(values)[:, 0], [0.025, 0.975])
    # Each sample of 32 items may lack one whose answer flips without one of the 8 layers.
    one = 1.96 * math.hypot(*(1 / above.sum() / 8 for _, above in shares))
    difference = expected[1] - expected[0]
    ends = min(low, difference - one), max(high, difference + one)
    assert [row["low"], row["high"]] == pytest.approx(ends, abs=0.02)


def test_records_without_places_have_the_rungs_that_are_protocols(brackets) -> None:
    columns = ["chosen", "correct_first", "correct_forced"]
    without = brackets.records.assign(**dict.fromkeys(columns, pd.NA))
    ladder = ladder_table(without, brackets.effects(), brackets.facts)
    assert set(ladder["rung"]) == {"choice", "generate", "margin"}
    steps = step_tables(without, ladder, brackets.facts)["ladder_steps"]
    assert list(zip(steps["first"], steps["second"], strict=True)) == [("choice", "generate")]
    assert steps["next_rung"].all()


def test_rungs_in_the_records_are_documented_ones(ladder: pd.DataFrame) -> None:
    assert set(ladder["rung"]) <= {*NAMES, "margin"}


def test_a_run_saves_its_ladder_and_reads_it_again(brackets: AblationResult, tmp_path) -> None:
    brackets.save(tmp_path)
    for name, table in brackets.derived().items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet").iloc[:, :1],
                                      table.iloc[:, :1], check_dtype=False)  # fmt: skip
    again = AblationResult.load(tmp_path)
    pd.testing.assert_frame_equal(again.ladder(), brackets.ladder())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_other_layers_are_claimed_of_the_model_that_has_them(name: str) -> None:
    """One model says letters and words by one layer, which letters need, too; the other by two."""
    plan = PLANS[name]
    found = ablate(
        load_model(name), "all", ("letter", "generate"), limit=32, progress=False
    ).ladder_steps()["ladder_steps"]
    assert len(found) == 2
    for row in found.to_dict("records"):
        letter, text = (
            set(plan.only_under(protocol, row["capability"])) for protocol in ("letter", "generate")
        )
        assert row["other_layers"] == bool(letter and text) == ("other" in name)
        assert set(row["layers_first"]) <= letter
        assert set(row["layers_second"]) == text
        assert row["layers_first"]
        if row["other_layers"]:
            assert row["layer_first"] in letter
            assert row["layer_second"] in text
