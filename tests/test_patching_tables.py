"""Averages over pairs: planted cells are found, formulas are what the page on patching says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests

from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.patching.pairs import more_solved_p_value
from layerwise.analyses.patching.tables import (
    METRICS,
    patching_effects,
    patching_summary,
    signals_of_pairs,
)
from layerwise.results import PatchingResult
from layerwise.storage.parquet import frame
from tests import synthetic
from tests.cases import data_sets, most_errors

N_LAYERS, N_HEADS, N_PAIRS = 3, 4, 16
PLANTED = (1, 2)


def head_rows(direction: str = "denoising", noise: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """One head carries 60 % of the answer, the others nothing but noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for pair in range(N_PAIRS):
        clean, corrupted = 3.0 + rng.random(), -3.0 - rng.random()
        base, aim = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        for layer in range(N_LAYERS):
            for head in range(N_HEADS):
                share = 0.6 * ((layer, head) == PLANTED) + noise * rng.normal() / 6
                rows.append(
                    {
                        "task": "keys", "capability": "retrieval", "item": f"keys/{pair}",
                        "protocol": "continuation", "direction": direction, "site": "z",
                        "layer": layer, "head": head, "pos": 5, "source_pos": 5,
                        "pos_label": "last", "clean_diff": clean, "corrupted_diff": corrupted,
                        "patched_diff": base + share * (aim - base), "recovered": share,
                        "clean_logprob": -0.1, "corrupted_logprob": -4.1,
                        "patched_logprob": (-4.1, -0.1)[direction == "noising"]
                        + share * (4.0, -4.0)[direction == "noising"],
                        "unpatched_kl": 2.0, "patched_kl": 2.0 * (1 - share),
                    }
                )  # fmt: skip
    return frame("patching", rows)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_planted_head_is_found_and_no_other(direction, metric):
    table = head_rows(direction)
    found = patching_effects(table, 0).query("metric == @metric")
    assert len(found) == N_LAYERS * N_HEADS
    sure = found.loc[found["significant"]]
    assert list(zip(sure["layer"], sure["head"], strict=True)) == [PLANTED]
    (row,) = sure.itertuples()
    assert row.recovered_low < row.recovered < row.recovered_high
    assert row.recovered == pytest.approx(0.6, abs=0.05)
    assert row.n_items == N_PAIRS
    mine = table.query("layer == 1 and head == 2")
    change = {
        "logit difference": mine["patched_diff"]
        - mine["corrupted_diff" if direction == "denoising" else "clean_diff"],
        "log-probability": mine["patched_logprob"] - (-4.1 if direction == "denoising" else -0.1),
        "KL divergence": mine["patched_kl"] - 2.0,
    }[metric]
    assert row.change == pytest.approx(change.mean())
    assert row.change_low <= row.change <= row.change_high


@pytest.mark.parametrize(
    ("solved", "turned", "signal"),
    [(16, 6, False), (17, 6, True), (5, 0, False), (None, None, None)],
)
def test_a_model_that_reverses_as_many_pairs_as_it_solves_gets_no_verdict(solved, turned, signal):
    """Of guesses some are right, and all of them bring the answer back: chosen for it."""
    table = head_rows().assign(pairs_solved=solved, pairs_reversed=turned)
    found = patching_effects(table, 0)
    assert found["signal"].isna().all() if signal is None else found["signal"].eq(signal).all()
    assert found["significant"].any() == (signal is not False)
    shares = np.linspace(0, 1, 9)[None, :-1].repeat(16, axis=0)
    rows = synthetic.patching_result(shares, "keys", "retrieval")
    told = rows.patching.assign(pairs_solved=solved, pairs_reversed=turned)
    told = told.astype({"pairs_solved": "Int64", "pairs_reversed": "Int64"})
    result = PatchingResult(told, rows.facts)
    said = f"No signal: keys when it chooses: {solved} pairs are solved, {turned} the wrong way"
    assert [note.startswith(said) for note in result.notes()[:1]] == [True] * (signal is False)
    depths = emergence([result], n_resamples=50)
    assert depths.emergence.empty == (signal is False)
    assert depths.left_out["reason"].str.startswith("no signal").tolist() == [True] * (
        signal is False
    )


def pair_counts(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Solved and reversed pairs by task."""
    rows = [
        {"task": task, "protocol": "continuation", "pairs_solved": one, "pairs_reversed": other}
        for task, (one, other) in counts.items()
    ]
    return pd.DataFrame(rows)


def test_signal_of_pairs_is_the_binomial_test_after_holms_correction():
    counts = {"a": (20, 4), "b": (16, 6), "c": (17, 5), "d": (0, 0)}
    p = [reference.binomtest(a, a + b, 0.5, alternative="greater").pvalue if a + b else 1.0
         for a, b in counts.values()]  # fmt: skip
    expected = multipletests(p, 0.025, method="holm")[0]
    found = signals_of_pairs(pair_counts(counts))
    assert [found[task, "continuation"] for task in counts] == expected.tolist()
    alone = signals_of_pairs(pair_counts({"c": counts["c"]}))
    assert alone["c", "continuation"]
    assert not found["c", "continuation"]


def test_pairs_that_stand_alone_are_tested_by_the_binomial_test():
    for solved, turned, neither in ((12, 3, 5), (6, 0, 0), (9, 8, 2), (3, 7, 1)):
        net = [1] * solved + [-1] * turned + [0] * neither
        n = solved + turned
        exact = reference.binomtest(solved, n, 0.5, alternative="greater").pvalue
        found = more_solved_p_value(net, [None] * len(net))
        assert found == (pytest.approx(exact) if solved > turned else 1.0)


def test_clusters_of_pairs_are_turned_together_in_all_ways():
    net, clusters = [1, 1, 1, -1, 1, 1, 0], ["a", "a", "b", "b", "c", None, "c"]
    sums = [2, 0, 1, 1]
    ways = [sum(s * x for s, x in zip(signs, sums, strict=True))
            for signs in product([1, -1], repeat=4)]  # fmt: skip
    expected = np.mean(np.array(ways) >= sum(sums))
    assert more_solved_p_value(net, clusters) == pytest.approx(expected)
    p = {"p": [expected], "pairs_solved": [60], "pairs_reversed": [3]}
    table = pd.DataFrame({"task": ["a"], "protocol": ["continuation"], **p})
    assert signals_of_pairs(table) == {("a", "continuation"): False}
    assert signals_of_pairs(table.assign(p=np.nan)) == {("a", "continuation"): True}


def test_facts_asked_four_times_pass_no_more_often_than_stated():
    """A model that does not read the prompt, but says the same of a fact however it is asked."""
    rng, sets = np.random.default_rng(11), data_sets(1500)
    clusters = [f"fact {i // 4}" for i in range(80)]
    by_cluster = by_pair = 0
    for _ in range(sets):
        net = np.repeat(rng.choice([1, -1], 20), 4).tolist()
        by_cluster += more_solved_p_value(net, clusters) < 0.025
        by_pair += more_solved_p_value(net, [None] * 80) < 0.025
    assert by_cluster <= most_errors(sets, 0.025)
    assert by_pair > 0.1 * sets


@pytest.mark.long
@pytest.mark.parametrize(
    "n_pairs", [24, *(pytest.param(n, marks=pytest.mark.long) for n in (8, 100))]
)
def test_a_run_of_models_that_do_not_read_the_prompt_has_signal_as_rarely_as_stated(n_pairs):
    """Nine tasks; tasks without a solved pair are in no table, so that they are not counted."""
    n_sets, rng = data_sets(1000), np.random.default_rng(n_pairs)
    found = alone = 0
    for _ in range(n_sets):
        prefers = rng.random((9, n_pairs, 1)) * 0.9 + 0.05  # an item's own, in either prompt
        in_clean, in_corrupted = np.moveaxis(rng.random((9, n_pairs, 2)) < prefers, 2, 0)
        solved, turned = in_clean & ~in_corrupted, ~in_clean & in_corrupted
        counts = {
            str(i): (int(one), int(other))
            for i, (one, other) in enumerate(zip(solved.sum(1), turned.sum(1), strict=True))
            if one
        }
        found += any(signals_of_pairs(pair_counts(counts)).values()) if counts else 0
        alone += any(
            reference.binom.sf(one - 1, one + other, 0.5) < 0.025 for one, other in counts.values()
        )
    assert found <= most_errors(n_sets, 0.025)
    assert alone > 0.05 * n_sets or n_pairs == 8


def test_without_effects_nothing_is_significant():
    """Corrected over twelve cells: at most 5 % false claims, within binomial error."""
    claims = 0
    n_sets = data_sets(40)
    for seed in range(n_sets):
        table = head_rows(noise=1.0, seed=seed)
        chosen = table.query("not (layer == 1 and head == 2)")
        found = patching_effects(chosen, seed).query("metric == 'logit difference'")
        claims += bool(found["significant"].any())
    assert claims <= most_errors(n_sets)


def test_metrics_that_were_not_measured_are_absent():
    table = head_rows().assign(unpatched_kl=np.nan, patched_kl=np.nan)
    assert set(patching_effects(table, 0)["metric"]) == {"logit difference", "log-probability"}
    assert patching_effects(table.iloc[:0], 0).empty


def test_directions_and_sites_with_and_without_heads_stand_beside_each_other():
    plain = head_rows().query("head == 0").assign(site="resid_pre", head=pd.NA)
    both = pd.concat(
        [
            head_rows(),
            head_rows("noising"),
            frame("patching", plain.drop(columns="cluster").to_dict("records")),
        ]
    )
    summary = patching_summary(both, 0)
    counts = summary.groupby(["direction", "site"]).size().to_dict()
    assert counts == {
        ("denoising", "resid_pre"): 3, ("denoising", "z"): 12, ("noising", "z"): 12,
    }  # fmt: skip
    assert summary.query("site == 'resid_pre'")["head"].isna().all()
    of_run = ["p_run", "run_tests", "recovered_run_low", "recovered_run_high"]
    alone = patching_summary(head_rows("noising"), 0)
    mine = summary.query("direction == 'noising'").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine.drop(columns=of_run), alone.drop(columns=of_run))


def test_the_compact_table_names_heads():
    facts = synthetic.facts(synthetic.task_facts("keys", "retrieval"), protocols=("continuation",))
    rows = PatchingResult(head_rows(), facts).summary_rows()
    assert rows.iloc[0][["site", "layer", "head"]].tolist() == ["z", "1", "2"]
    assert rows.iloc[0]["recovered or lost (%) [95 %]"].startswith("6")
