"""Scoring steps on models whose answer is known, against records and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analyses.organism_training.letters.plan import PLANS
from layerwise import ablate, load_model, stats
from layerwise.analyses.ablation.tables.scoring_steps import compare_steps, scoring_steps_table
from layerwise.results import AblationResult
from layerwise.stats.cells import cells
from layerwise.stats.share_tests.scoring_steps import SCORING_STEPS, step_records
from layerwise.stats.signals.signal import signals
from tests import synthetic, weak
from tests.cases import LONG, data_sets, few_by_day, in_long_runs, most_errors
from tests.comparing import CHANCE, answers

LETTERED = tuple(PLANS)


@pytest.fixture(scope="module")
def brackets() -> AblationResult:
    """Four words an answer: layer 6 is needed for all of them, layer 5 for all but the first."""
    return ablate(
        load_model("organism-decoder"), "organism-brackets", ("continuation", "generate"),
        layers=[0, 4, 5, 6], limit=32, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scores(brackets: AblationResult) -> pd.DataFrame:
    return brackets.ladder()


@pytest.mark.long
def test_each_step_is_the_mean_of_its_column(brackets: AblationResult, scores: pd.DataFrame):
    records = brackets.records
    for step in SCORING_STEPS[1:]:
        own = records.loc[records["protocol"] == step.protocol]
        means = own[step.column].astype(float).groupby(own["intervention"]).mean()
        rows = scores.loc[scores["rung"] == step.name].set_index("intervention")
        assert len(rows) == 4
        for name, row in rows.iterrows():
            assert row["changed"] == pytest.approx(means[name])
            assert row["intact"] == pytest.approx(means["intact"])
            assert row["floor"] == pytest.approx(means["no layers"])


@pytest.mark.long
def test_the_margin_is_in_nats(brackets: AblationResult, scores: pd.DataFrame) -> None:
    rows = scores.loc[scores["rung"] == "margin"].set_index("intervention")
    records = brackets.records.query("protocol == 'continuation'")
    means = records["margin"].groupby(records["intervention"]).mean()
    assert set(rows["unit"]) == {"nats"}
    for name, row in rows.iterrows():
        lost = means["intact"] - means[name]
        assert row["loss"] == pytest.approx(lost)
        assert row["share_lost"] == pytest.approx(lost / (means["intact"] - means["no layers"]))
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]


def test_a_harder_step_is_no_other_layers(brackets: AblationResult, scores: pd.DataFrame) -> None:
    sure = scores.loc[scores["significant"] & (scores["unit"] == "accuracy")]
    layers = {step: sorted(rows["layer"]) for step, rows in sure.groupby("rung")}
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
    for step in SCORING_STEPS[2:4]:
        wide = step_records(brackets.records, step).pivot_table(
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


def test_records_without_places_have_the_steps_that_are_protocols(brackets) -> None:
    columns = ["chosen", "correct_first", "correct_forced"]
    without = brackets.records.assign(**dict.fromkeys(columns, pd.NA))
    scores = scoring_steps_table(without, brackets.effects(), brackets.facts)
    assert set(scores["rung"]) == {"choice", "generate", "margin"}
    steps = compare_steps(without, scores, brackets.facts)["ladder_steps"]
    assert list(zip(steps["first"], steps["second"], strict=True)) == [("choice", "generate")]
    assert steps["next_rung"].all()


@pytest.mark.long
@pytest.mark.parametrize("name", few_by_day(LETTERED, "organism-letters"))
def test_other_layers_are_claimed_of_the_model_that_has_them(name: str) -> None:
    """One model says letters and words by one layer, which letters need, too; the other by two."""
    plan = PLANS[name]
    found = ablate(
        load_model(name), "all", ("letter", "generate"), limit=32, progress=False
    ).ladder_steps()["ladder_steps"]
    assert len(found) == 2
    for row in found.to_dict("records"):
        letter, text = (
            set(plan.specific_layers(protocol, row["capability"]))
            for protocol in ("letter", "generate")
        )
        assert row["other_layers"] == bool(letter and text) == ("other" in name)
        assert set(row["layers_first"]) <= letter
        assert set(row["layers_second"]) == text
        assert row["layers_first"]
        if row["other_layers"]:
            assert row["layer_first"] in letter
            assert row["layer_second"] in text


BY_PROTOCOL = dict(zip(weak.PROTOCOLS, ("letter", "choice", "generate"), strict=True))


def scoring_step_records(
    rng: np.random.Generator, accuracy: float, hits: dict[int, float], n_tasks: int = 9
) -> pd.DataFrame:
    """Tasks named by letter more often than by text; all steps need the same layer, or none."""
    n, n_layers, parts = 100, 3, []
    names = [f"task {i}" for i in range(n_tasks)]
    for task in names:
        for protocol, right in zip(BY_PROTOCOL, (0.8, accuracy, accuracy), strict=True):
            drawn = answers(rng, rng.random(n) < right, hits, n_layers, 1.0, right)
            floor = rng.random(n) < CHANCE
            parts.append(synthetic.cell_records(drawn, task, task, protocol, floor))
    records = pd.concat(parts, ignore_index=True)
    tasks = [
        synthetic.task_facts(task, task, n_items=n).model_copy(
            update={"chance": dict.fromkeys(BY_PROTOCOL, CHANCE)}
        )
        for task in names
    ]
    facts = synthetic.facts(*tasks, n_layers=n_layers, protocols=tuple(BY_PROTOCOL))
    signal = signals(list(cells(records)), facts.chance)
    scores = pd.DataFrame(
        {"task": task, "capability": task, "kind": "skip", "site": "layer",
         "rung": BY_PROTOCOL[protocol], "signal": able}
        for (task, protocol), able in signal.items()
    )  # fmt: skip
    return compare_steps(records, scores, facts)["ladder_steps"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("accuracy", "hits"), [(0.36, {}), *in_long_runs((0.4, {}), (0.4, {2: 1.0}), (0.45, {2: 1.0}))]
)
def test_steps_that_need_the_same_layer_are_claimed_as_rarely_as_stated(accuracy, hits):
    """The steps compared are those on which the model was lucky."""
    n = data_sets(32)
    n_tasks = 9 if LONG else 6
    found = [
        scoring_step_records(np.random.default_rng(seed), accuracy, hits, n_tasks)
        for seed in range(n)
    ]
    assert sum(len(each) > 0 for each in found) > n / 10
    claimed = sum(bool((each["p_holm"] < 0.05).any()) for each in found)
    assert claimed <= most_errors(n)


def test_steps_without_signal_count_among_the_tests():
    rng = np.random.default_rng(0)
    while not 0 < len(found := scoring_step_records(rng, 0.4, {2: 1.0}, n_tasks=2)) < 6:
        continue
    assert found["p_holm"].min() == pytest.approx(min(6 * found["p"].min(), 1.0))
