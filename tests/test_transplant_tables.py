"""Answers that move with a layer, against brute force and outside values, and where none move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, spearmanr
from statsmodels.stats.multitest import multipletests

import layerwise as lw
from layerwise.analyses.transplant import tables
from layerwise.analyses.transplant.result import TransplantResult
from layerwise.analyses.transplant.tables import best_change, split_by_cluster
from layerwise.errors import UserError
from layerwise.presentation.rows import rows
from layerwise.report.html import findings
from layerwise.stats.families import estimate
from tests import analysis
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.planted import small_model, small_task
from tests.transplanting import (
    LAYOUT,
    answers_of_both,
    joined_results,
    silence_parts,
    transplant_result,
    with_activations,
)

RNG = np.random.default_rng(7)


def draw_answers(n: int, accuracy: float, rng: np.random.Generator = RNG) -> np.ndarray:
    return rng.random(n) < accuracy


def flip_answers(right: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The same answers, as many right ones turned wrong as wrong ones right on average."""
    again = rng.random(len(right)) < share
    return np.where(again, rng.permutation(right), right)


@pytest.fixture(scope="module", params=[False, True], ids=["other better", "base better"])
def known_transplant(request):
    """Layer 1 moves all of the gap, layer 2 half of it, layer 0 nothing; and the better model."""
    n = 40
    worse, better = np.arange(n) < 12, np.arange(n) < 36
    half = np.arange(n) < 24
    gains = {0: worse, 1: better, 2: half}
    losses = {0: better, 1: worse, 2: half}
    if request.param:
        return transplant_result(better, worse, answers_of_both(losses, gains)), "base"
    return transplant_result(worse, better, answers_of_both(gains, losses)), "other"


def test_moves_are_those_of_counting(known_transplant):
    result, better = known_transplant
    effects = result.effects()
    assert len(effects) == 6
    for row in effects.itertuples():
        assert row.direction == ("destroys" if row.host == better else "brings")
        expected = {0: 0, 1: 24, 2: 12}[row.layer]
        assert (row.n_moved, row.n_against) == (expected, 0)
        assert row.moved == pytest.approx(expected / 40)
        assert row.share == pytest.approx(expected / 24)
        assert row.nats == pytest.approx(2 * expected / 40)
        assert row.moved_low <= row.moved <= row.moved_high
        assert row.run_low <= row.moved <= row.run_high
        assert row.share_low <= row.share <= row.share_high
        assert row.significant == (expected > 0)


def test_tests_are_mcnemars_and_holms_and_what_is_brought_beats_guessing(known_transplant):
    result, better = known_transplant
    effects = result.effects()
    for row in effects.itertuples():
        plain = binomtest(row.n_moved, row.n_moved, 0.5).pvalue if row.n_moved else 1.0
        guessing = binomtest(round(40 * row.acc), 40, 0.25, alternative="greater").pvalue
        assert row.p == pytest.approx(plain if row.host == better else max(plain, guessing))
    of_better = effects.loc[effects["host"] == better]
    np.testing.assert_allclose(of_better["p_holm"], multipletests(of_better["p"], method="holm")[1])
    np.testing.assert_allclose(effects["p_run"], multipletests(effects["p"], method="holm")[1])


def test_the_gap_is_mcnemars_test_of_both_models_on_the_same_items(known_transplant):
    result, better = known_transplant
    (gap,) = result.gaps().itertuples()
    assert (gap.better, gap.n_better, gap.n_worse) == (better, 24, 0)
    assert gap.p == pytest.approx(binomtest(0, 24, 0.5).pvalue)
    assert gap.gap == pytest.approx(24 / 40)
    assert gap.gap_low < gap.gap < gap.gap_high
    assert gap.nats == pytest.approx(2 * 24 / 40)
    assert gap.found


def test_ranks_are_spearmans(known_transplant):
    result, _ = known_transplant
    effects, ranks = result.effects(), result.ranks()
    assert len(ranks) == 2
    for row in ranks.itertuples():
        of = effects.loc[effects["host"] == row.host].sort_values(by="layer")
        assert row.rho == pytest.approx(spearmanr([0, 1, 2], of["moved"]).statistic)
        assert row.rho_low <= row.rho <= row.rho_high
        assert row.rho_p >= 2 / 6  # of three layers every order is likely


def test_items_that_ask_for_the_same_thing_count_once():
    worse, better = np.arange(40) < 12, np.arange(40) < 36
    result = transplant_result(worse, better, answers_of_both({1: better}, {1: worse}))
    together = [f"cluster {i // 4}" for i in range(40)]
    table = result.transplant
    table = table.assign(cluster=[together[int(item)] for item in table["item"]])
    again = type(result)(table, result.transplant_distances, result.facts)
    apart, joined = result.effects(), again.effects()
    assert (joined["p"] > apart["p"]).all()
    np.testing.assert_allclose(joined["moved"], apart["moved"])
    assert (joined["n_clusters"] == 10).all()
    assert again.gaps()["p"].item() == pytest.approx(2 / 2**6)


def test_nothing_is_tested_where_there_is_no_gap():
    same = np.arange(40) < 30
    broken = draw_answers(40, 0.25)
    gap = transplant_result(~same, same, answers_of_both({0: same}, {0: ~same}), task="b")
    none = transplant_result(same, same, answers_of_both({0: broken}, {0: broken}))
    effects = joined_results(none, gap).effects().set_index("task")
    assert not effects.loc["keys", "significant"].any()
    assert effects.loc["keys", ["p_run", "share", "run_low"]].isna().all(axis=None)
    assert effects.loc["b", "significant"].all()
    # the correction over the run counts the tests where there is no gap as well
    assert effects.loc["b", "run_tests"].tolist() == [4, 4]
    np.testing.assert_allclose(effects.loc["b", "p_run"], 4 * effects.loc["b", "p"])


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(estimate, "N_RESAMPLES", 20)


def by_place(n: int, one: Callable[[], np.ndarray]) -> dict[int, np.ndarray]:
    return {place: one() for place in range(n)}


def alike(rng: np.random.Generator) -> bool:
    """True if a gap is found between two models that are equally able."""
    accuracy = rng.choice([0.4, 0.7, 0.95])
    result = transplant_result(draw_answers(40, accuracy, rng), draw_answers(40, accuracy, rng), {})
    return bool(result.gaps()["found"].any())


def flipping_results(
    rng: np.random.Generator,
    *exchanges: str,
    worse: np.ndarray,
    better: np.ndarray,
    n_layers: int = 4,
) -> list[TransplantResult]:
    """Of each exchange layers that flip answers for nothing, put into both of two models."""
    share = rng.choice([0.1, 0.3, 0.6])
    changed = [
        [by_place(n_layers, partial(flip_answers, right, share, rng)) for right in (worse, better)]
        for _ in exchanges
    ]
    return [
        transplant_result(worse, better, answers_of_both(*of), exchange=exchange)
        for of, exchange in zip(changed, exchanges, strict=True)
    ]


def flips_move(rng: np.random.Generator) -> bool:
    worse, better = draw_answers(40, 0.35, rng), draw_answers(40, 0.9, rng)
    (result,) = flipping_results(rng, "weights", worse=worse, better=better, n_layers=6)
    effects = result.effects()
    return bool(((effects["p_run"] < 0.05) & (effects["moved"] > 0)).any())


def has_flip_claim(rng: np.random.Generator) -> bool:
    """Of weights and of activations together."""
    worse, better = draw_answers(40, 0.35, rng), draw_answers(40, 0.9, rng)
    result = with_activations(
        *flipping_results(rng, "weights", "activations", worse=worse, better=better)
    )
    assert len(result.effects()) == 16
    claims = [one.full for one in findings([result]) if one.kind == "transplant"]
    return not all(claim.startswith("None of 4 exchanges") for claim in claims)


def has_guess_claim(rng: np.random.Generator) -> bool:
    """To a model below guessing that guesses anew."""
    worse, better = draw_answers(60, 0.02, rng), draw_answers(60, 0.95, rng)
    guesses = by_place(4, partial(draw_answers, 60, 0.25, rng))
    return bool(
        transplant_result(worse, better, answers_of_both(guesses, {}))
        .effects()["significant"]
        .any()
    )


def has_control_claim(rng: np.random.Generator, control: str) -> bool:
    """Of four options one is right in 55 % of the items without the question being read."""
    worse, better = draw_answers(60, 0.02, rng), draw_answers(60, 0.95, rng)
    guesses = by_place(4, partial(draw_answers, 60, 0.55, rng))
    result = transplant_result(worse, better, answers_of_both(guesses, {0: worse}))
    asked = rows(result.transplant, host="other", kind="intact").assign(
        intervention=control, kind=control.split(":")[0], correct=draw_answers(60, 0.55, rng)
    )
    effects = replace(result, transplant=pd.concat([result.transplant, asked])).effects()
    assert rows(effects, direction="destroys")["significant"].all()
    return bool(rows(effects, direction="brings")["significant"].any())


RARELY: list[tuple[Callable[[np.random.Generator], bool], int, int]] = [
    (alike, 15, 1000), (flips_move, 12, 500), (has_flip_claim, 6, 300),
    (has_guess_claim, 10, 300), (partial(has_control_claim, control="blind:1"), 10, 300),
    (partial(has_control_claim, control="guesser: the longest"), 0, 300),
]  # fmt: skip
"""Claims of what does nothing, in how many data sets by day, and in how many in long runs."""


def is_within_rate(n_false: int, n: int, rate: float = 0.05) -> bool:
    """True if so many false claims are what a rate allows."""
    return binomtest(n_false, n, rate, alternative="greater").pvalue > 0.01


@pytest.mark.long
@pytest.mark.parametrize(
    ("claims", "n"),
    [*((claims, n) for claims, n, _ in RARELY if n),
     *in_long_runs(*((claims, n) for claims, _, n in RARELY))],
)  # fmt: skip
def test_what_does_nothing_is_claimed_to_move_as_rarely_as_stated(claims, n, few_resamples):
    rng = np.random.default_rng(1)
    assert is_within_rate(sum(claims(rng) for _ in range(n)), n)


@pytest.mark.long
@pytest.mark.parametrize("n", [10, pytest.param(400, marks=pytest.mark.long)])
def test_the_best_of_many_that_do_nothing_moves_held_out_items_as_rarely_as_stated(
    n, few_resamples
):
    rng, false, better = np.random.default_rng(6), 0, []
    for _ in range(n):
        greedy = greedy_search(rng)[0].greedy()
        false += bool(((greedy["p_run"] < 0.05) & (greedy["moved"] > 0)).any())
        better.append(float((greedy["moved_selection"] - greedy["moved"]).mean()))
    assert is_within_rate(false, n)
    assert np.mean(better) > 0.03  # what it was chosen by makes it look better


@pytest.mark.long
@pytest.mark.parametrize("n", [10, pytest.param(200, marks=pytest.mark.long)])
def test_intervals_of_shares_cover_the_share(n, monkeypatch):
    monkeypatch.setattr(estimate, "N_RESAMPLES", 400)
    rng, told, covered = np.random.default_rng(4), 0, 0
    for _ in range(n):
        worse, better = draw_answers(50, 0.3, rng), draw_answers(50, 0.9, rng)
        part = np.where(rng.random(50) < 0.5, better, worse)  # the true share is a half
        effects = transplant_result(worse, better, answers_of_both({0: part}, {0: part})).effects()
        for row in effects.itertuples():
            told += 1
            covered += row.share_low <= 0.5 <= row.share_high
    assert binomtest(covered, told, 0.95, alternative="less").pvalue > 0.01


def test_records_of_other_items_are_refused(known_transplant):
    result, _ = known_transplant
    table = result.transplant
    lacking = table.loc[(table["host"] == "base") | (table["item"] != "0003")]
    with pytest.raises(UserError, match="not of the same items in both models"):
        tables.effects_table(lacking, result.gaps(), lambda *_: 0.25, 0)
    none = pd.DataFrame(table.head(0))
    assert tables.effects_table(none, result.gaps().head(0), lambda *_: 0.25, 0).empty


def two_abilities() -> Any:
    """Look-ups, and half as many facts, in one task."""
    first, second = small_task("retrieval", 32), small_task("knowledge", 16)
    items = [*first.items, *(replace(one, id=f"fact-{one.id}") for one in second.items)]
    return replace(first, items=tuple(items))


@pytest.mark.long
def test_the_layer_of_the_larger_part_comes_first_and_the_other_next(tmp_path):
    whole, broken = (
        small_model(LAYOUT),
        silence_parts(small_model(LAYOUT), (1, "attn_out"), (2, "mlp_out")),
    )
    result = lw.transplant(
        broken, whole, two_abilities(), layers=[0, 1, 2], greedy=2, sets="together",
        progress=False, out=tmp_path,
    )  # fmt: skip
    found = rows(result.greedy(), direction="brings").set_index("step")
    assert [list(layers) for layers in found["layers"]] == [[1], [1, 2]]
    assert list(found["layer"]) == [1, 2]
    assert list(found["n_candidates"]) == [3, 2]
    assert found["n_selection"].eq(24).all()
    assert found["n_items"].eq(24).all()
    assert found["share"].loc[2] == pytest.approx(1)
    assert 0.4 < found["share"].loc[1] < 0.9
    assert found["significant"].all()
    # the held-out figure is that of the records on items that did not choose
    table = result.transplant
    held = table.loc[(table["split"] == "held out") & (table["host"] == "base")]
    chose = table.loc[(table["split"] == "selection") & (table["host"] == "base")]
    assert not set(held["item"]) & set(chose["item"])
    acc = held.loc[held["step"] == 1, "correct"].astype(float).mean()
    assert found["acc"].loc[1] == pytest.approx(acc)
    (told,) = [one.full for one in findings([result]) if "Chosen in this order" in one.full]
    assert told.startswith("With 2 greedily chosen layers of the other model, the base gains")
    assert "that did not choose" in told
    # effects are of all items and know nothing of the search
    assert set(result.effects()["set"]) == {"together"}
    (again,) = lw.load(tmp_path)
    pd.testing.assert_frame_equal(result.greedy(), again.greedy())
    assert list(result.greedy().columns) == analysis.documented_columns("transplant_greedy.parquet")
    page = lw.report(again).html
    assert "Chosen one after the other" in page
    assert lw.verify(tmp_path)


def records(correct, nats=None):
    return pd.DataFrame({"correct": correct, "gold_logprob": nats or [np.nan] * len(correct)})


def test_the_best_is_by_accuracy_then_nats_then_the_first():
    some, more = [True, False, False], [True, True, False]
    assert best_change([records(some), records(more), records(more)], "brings") == 1
    assert best_change([records(more), records(some), records(some)], "destroys") == 1
    tied = [records(some, [-1.0, -3.0, -3.0]), records(some, [-1.0, -2.0, -3.0])]
    assert best_change(tied, "brings") == 1
    assert best_change(tied, "destroys") == 0


def test_items_that_ask_for_the_same_thing_are_in_one_part():
    task = word_task(12)
    items = tuple(replace(item, cluster=f"c{i // 3}") for i, item in enumerate(task.items))
    halves = split_by_cluster(replace(task, items=items), 0.5, 0)
    clusters = {name: {item.cluster for item in half.items} for name, half in halves.items()}
    assert not clusters["selection"] & clusters["held out"]
    assert {len(half.items) for half in halves.values()} == {6}
    assert split_by_cluster(task, 0.5, 1) != split_by_cluster(task, 0.5, 0)
    with pytest.raises(UserError, match="0 of 4 items would be held out"):
        split_by_cluster(replace(task, items=items), 0.1, 0)


def greedy_search(rng: np.random.Generator) -> tuple[TransplantResult, dict[str, int]]:
    """A search over layers that flip answers for nothing, the best measured on held-out items."""
    worse, better = draw_answers(80, 0.35, rng), draw_answers(80, 0.9, rng)
    (whole,) = flipping_results(rng, "weights", worse=worse, better=better, n_layers=12)
    table = whole.transplant
    changed = rows(table, kind="transplant").assign(step=1, set="greedy")
    chose = changed.loc[changed["item"] < "0040"].assign(split="selection")
    moved = chose["correct"].astype(float) * chose["host"].map({"base": 1, "other": -1})
    scores = moved.groupby([chose["host"], chose["layer"]]).mean()
    picks = {host: int(scores[host].idxmax()) for host in ("base", "other")}
    is_picked = changed["layer"] == changed["host"].map(picks)
    held_out = changed.loc[(changed["item"] >= "0040") & is_picked].assign(split="held out")
    made = pd.concat([rows(table, kind="intact"), chose, held_out], ignore_index=True)
    made["step"] = made["step"].astype("Int64")
    return replace(whole, transplant=made), picks


def test_what_is_told_is_counted_on_held_out_items(few_resamples):
    result, picks = greedy_search(np.random.default_rng(0))
    table, greedy = result.transplant, result.greedy()
    assert len(greedy) == 2
    plain = rows(table, kind="intact").set_index(["host", "item"])["correct"].astype(int)
    for row in greedy.to_dict("records"):
        assert row["layer"] == picks[row["host"]]
        held = rows(table, host=row["host"], split="held out").set_index(["host", "item"])
        net = held["correct"].astype(int) - plain.loc[held.index]
        net = net if row["direction"] == "brings" else -net
        assert row["moved"] == pytest.approx(net.mean())
        moved, against = int((net > 0).sum()), int((net < 0).sum())
        assert (row["n_moved"], row["n_against"]) == (moved, against)
        if row["direction"] == "destroys":
            p = binomtest(moved, moved + against, 0.5).pvalue if moved + against else 1.0
            assert row["p"] == pytest.approx(p)
        chose = rows(table, host=row["host"], split="selection", layer=row["layer"])
        chose = chose.set_index(["host", "item"])
        net = chose["correct"].astype(int) - plain.loc[chose.index]
        sign = 1 if row["direction"] == "brings" else -1
        assert row["moved_selection"] == pytest.approx(sign * net.mean())
        assert row["n_candidates"] == 12
    np.testing.assert_allclose(greedy["p_run"], multipletests(greedy["p"], method="holm")[1])
