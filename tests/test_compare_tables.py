"""Quantities of runs and differences between them: brute force, planted, and where nothing is."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from layerwise import stats
from layerwise.analyses.comparison.findings import established
from layerwise.analyses.comparison.quantities import COMPARED, Key, Quantity, quantities, thirds_of
from layerwise.analyses.comparison.tables import (
    corrected,
    estimate_rows,
    group_difference_rows,
    pair_rows,
)
from layerwise.storage.parquet import frame
from tests.cases import data_sets, most_errors
from tests.comparing import CHANCE, answers, ready, row

HALF = "half-effect depth"


def pair(
    hits: dict[int, float],
    others: dict[int, float],
    seed: int = 0,
    n: int = 80,
    n_resamples: int = 400,
    **changes,
):
    rng = np.random.default_rng(seed)
    base = rng.random(n) < 0.9
    return [
        ready(name, answers(rng, base, given, **changes), n_resamples)
        for name, given in (("one", hits), ("two", others))
    ]


def of(found: dict[Key, list[Quantity]], family: str, measure: str, axis="computation"):
    (key,) = [k for k in found if (k.family, k.measure, k.axis) == (family, measure, axis)]
    return found[key]


def test_quantities_are_those_of_plainly_resampled_items():
    """Every resample by hand: the accuracies of the drawn items, then the measure."""
    runs = pair({2: 0.7, 3: 0.5}, {5: 0.8})
    found = quantities(runs)
    drawn = stats.resample_indices(80, 400, stats.generator(0, "keys"))[:40]
    for r, run in enumerate(runs):
        cell = run.cells["keys", "letter"]
        for i, items in enumerate(drawn, start=1):
            intact, skipped = cell.intact[items].mean(), cell.correct[items].mean(axis=0)
            share = (intact - skipped) / (intact - CHANCE)
            late = of(found, "share lost", "late third")[r].draws[i]
            assert late == pytest.approx(share[5:].mean())  # 5.5 / 8 is beyond two thirds
            half = of(found, "depth", HALF)[r].draws[i]
            if share.sum() > 0:
                assert half == pytest.approx((_half(share) + 0.5) / 8)
            else:
                assert np.isnan(half)
            assert of(found, "accuracy", "accuracy")[r].draws[i] == pytest.approx(intact)


def _half(importance: np.ndarray) -> float:
    """Where the cumulative importance passes one half, by walking along it."""
    total, seen, found = importance.sum(), 0.0, np.nan
    for layer, value in enumerate(importance):
        if seen < total / 2 <= seen + value:  # for good: the last time
            found = np.clip(layer - 0.5 + (total / 2 - seen) / value, 0, len(importance) - 1)
        seen += value
    return float(found)


def test_a_planted_difference_of_depth_is_found_with_its_size():
    rows = pd.DataFrame(pair_rows(pair({2: 1.0}, {5: 1.0}, noise=0.0), []))
    found = row(rows, measure=HALF)
    assert found["estimate_first"] == pytest.approx(2.5 / 8)
    assert found["estimate_second"] == pytest.approx(5.5 / 8)
    assert found["difference"] == pytest.approx(3 / 8)
    assert found["significant"]
    losses = rows.loc[rows["family"] == "share lost"].set_index("measure")["significant"]
    assert losses.to_dict() == {"early third": True, "middle third": False, "late third": True}


def test_depths_of_models_of_different_size_are_on_one_axis():
    rng = np.random.default_rng(0)
    base = rng.random(80) < 0.9
    runs = [
        ready(f"of {n}", answers(rng, base, {layer: 1.0}, n, noise=0.0))
        for n, layer in ((4, 1), (8, 3))
    ]
    found = row(pd.DataFrame(pair_rows(runs, [])), measure=HALF)
    assert (found["estimate_first"], found["estimate_second"]) == (1.5 / 4, 3.5 / 8)
    told = pd.DataFrame(list(estimate_rows(runs)))
    sizes = told.loc[told["family"] == "critical set"].set_index("run")["estimate"]
    assert sizes.to_dict() == {"of 4": 1 / 4, "of 8": 1 / 8}


def test_accuracies_are_tested_as_scipy_does():
    rng = np.random.default_rng(3)
    base = rng.random(80) < 0.9
    runs = [
        ready("one", answers(rng, base, {}, noise=0.3)),
        ready("two", answers(rng, base, {}, noise=0.8, accuracy=0.6)),
    ]
    found = row(pd.DataFrame(pair_rows(runs, [])), family="accuracy")
    one, two = (run.cells["keys", "letter"].intact for run in runs)
    only = int((one & ~two).sum()), int((~one & two).sum())
    assert found["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert found["difference"] == pytest.approx(two.mean() - one.mean())
    assert found["low"] < found["difference"] < found["high"]


def test_pairing_makes_intervals_narrower_where_models_answer_alike():
    """Two models that share their answers differ by less than two that do not."""
    widths = []
    for shared in (True, False):
        rng = np.random.default_rng(1)
        bases = [rng.random(80) < 0.7 for _ in range(2)]
        runs = [ready(name, answers(rng, bases[0 if shared else i], {}, noise=0.05))
                for i, name in enumerate(("one", "two"))]  # fmt: skip
        found = row(pd.DataFrame(pair_rows(runs, [])), family="accuracy")
        widths.append(found["high"] - found["low"])
    assert widths[0] < widths[1] / 2


def test_accuracies_of_items_that_are_all_alike_have_exact_bounds():
    """Two models right on all items, or on none: what as many others might show is left open."""
    n, unseen = 40, 1 - 0.025 ** (1 / 40)  # Clopper and Pearson's bound of none of 40
    always, never = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    for right, others in ((always, always), (always, never)):
        runs = [
            ready(name, answers(np.random.default_rng(0), one, {}, noise=0.0))
            for name, one in (("one", right), ("two", others))
        ]
        found = row(pd.DataFrame(pair_rows(runs, [])), family="accuracy")
        change = others.mean() - right.mean()
        assert found["low"] == pytest.approx(max(-1.0, change - unseen))
        assert found["high"] == pytest.approx(change + unseen * (1 - change))
        own = row(pd.DataFrame(estimate_rows(runs[:1])), family="accuracy")
        assert (own["low"], own["high"]) == pytest.approx((1 - unseen, 1.0))


def test_where_nothing_differs_tests_keep_their_level():
    """Pairs of models of one truth: p < 0.05 as often as that, and Holm's family less."""
    hits, families = defaultdict(list), defaultdict(list)
    for seed in range(data_sets(80)):
        runs = pair({3: 0.6, 4: 0.4}, {3: 0.6, 4: 0.4}, seed, n=50, n_resamples=200)
        rows = pd.DataFrame(pair_rows(runs, []))
        for (family, measure), mine in rows.groupby(["family", "measure"]):
            hits[family, measure] += mine["p"].lt(0.05).tolist()
        for family, mine in rows.groupby("family"):
            families[family].append(bool(mine["significant"].any()))
    assert set(families) == set(COMPARED)
    for what, found in [*hits.items(), *families.items()]:
        assert sum(found) <= most_errors(len(found)), what


def test_models_that_need_the_same_layers_do_not_differ_in_them_if_one_is_right_more_often():
    """Half of the layers cost each two fifths of what it has above the floor; only that differs.

    How many layers have a significant loss does differ, since the one has more to lose: 6 against 3
    of 12 on average, so that sizes of critical sets are not compared.
    """
    sets, told, sizes = data_sets(100), defaultdict(int), []
    for seed in range(sets):
        rng, runs = np.random.default_rng(seed), []
        for name, accuracy in (("one", 0.95), ("two", 0.6)):
            base = rng.random(60) < accuracy
            hits = dict.fromkeys(range(0, 12, 2), 0.4)
            runs.append(ready(name, answers(rng, base, hits, 12, noise=0.0), 200))
        rows = pd.DataFrame(pair_rows(runs, []))
        for family, mine in rows.groupby("family"):
            told[family] += bool(mine["significant"].any())
        own = pd.DataFrame(list(estimate_rows(runs)))
        sizes.append(own.loc[own["family"] == "critical set"].set_index("run")["estimate"])
    assert set(told) == set(COMPARED)
    assert max(told["depth"], told["share lost"]) <= most_errors(sets)
    assert np.mean([each["one"] - each["two"] for each in sizes]) > 0.2


def test_what_one_model_cannot_do_is_left_out_and_said():
    rng = np.random.default_rng(0)
    base, guessed = rng.random(80) < 0.9, rng.random(80) < 0.25
    runs = [ready("one", answers(rng, base, {2: 1.0})),
            ready("two", answers(rng, guessed, {}, noise=0.0))]  # fmt: skip
    silent: list = []
    rows = pd.DataFrame(pair_rows(runs, silent))
    assert set(rows["family"]) == {"accuracy"}
    reasons = {(each["runs"], each["reason"]) for each in silent}
    assert ("one, two", "nothing can be said of two") in reasons
    both: list = []
    assert pair_rows([runs[1], ready("three", answers(rng, guessed, {}, noise=0.0))], both) == []
    assert both[0]["reason"] == "no signal: no intact model is better than blind"


def test_stacks_have_axes_of_their_own():
    rng = np.random.default_rng(0)
    base = rng.random(80) < 0.9
    seq = ready("seq", answers(rng, base, {1: 1.0, 6: 1.0}, noise=0.0), n_encoder=4)
    other = ready("other", answers(rng, base, {2: 1.0, 6: 1.0}, noise=0.0), n_encoder=4)
    plain = ready("plain", answers(rng, base, {2: 1.0}, noise=0.0))
    mixed, both = quantities([seq, plain]), quantities([seq, other])
    assert {key.axis for key in mixed} == {"computation", "decoder"}
    assert {key.axis for key in both} == {"computation", "encoder", "decoder"}
    assert {key.axis for key in quantities([plain])} == {"computation"}
    inside = [of(mixed, "depth", HALF, "decoder")[i].draws[0] for i in (0, 1)]
    assert inside == pytest.approx([2.5 / 4, 2.5 / 8])
    encoders = [of(both, "depth", HALF, "encoder")[i].draws[0] for i in (0, 1)]
    assert encoders == pytest.approx([1.5 / 4, 2.5 / 4])


@given(st.integers(1, 60))
def test_each_layer_is_in_the_third_that_its_middle_lies_in(n: int):
    thirds = thirds_of(n)
    assert sorted(layer for layers in thirds.values() for layer in layers) == list(range(n))
    bounds = {"early": (0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1)}
    for name, layers in thirds.items():
        low, high = bounds[name]
        assert all(low - 1e-9 <= (layer + 0.5) / n <= high + 1e-9 for layer in layers)


def test_groups_are_compared_with_the_run_as_the_unit():
    rng = np.random.default_rng(0)
    base = rng.random(80) < 0.9
    layers = ([2, 2, 2], [5, 5, 5])
    groups = [
        [ready(f"{g}{i}", answers(rng, base, {at: 0.9, at + 1: 0.1 * i}), 400)
         for i, at in enumerate(mine)]
        for g, mine in zip("ab", layers, strict=True)
    ]  # fmt: skip
    for runs, name in zip(groups, "ab", strict=True):
        for each in runs:
            object.__setattr__(each.run, "group", name)
    rows = pd.DataFrame(corrected(list(group_difference_rows(*groups, []))))
    found = row(rows, measure=HALF)
    halves = [[of(quantities([r]), "depth", HALF)[0].draws[0] for r in g] for g in groups]
    assert found["difference"] == pytest.approx(np.mean(halves[1]) - np.mean(halves[0]))
    assert found["significant"]
    assert (found["n_first"], found["n_second"], found["unit"]) == (3, 3, "run")
    assert found["error_runs"] > 0
    assert found["error_items"] > 0


def test_seeds_that_differ_among_themselves_establish_nothing():
    """Two runs alone would be told apart for sure; as seeds of two groups they are not."""
    rng = np.random.default_rng(0)
    base = rng.random(80) < 0.9
    first = [ready(f"a{i}", answers(rng, base, {at: 0.95})) for i, at in enumerate((1, 4, 6))]
    second = [ready(f"b{i}", answers(rng, base, {at: 0.95})) for i, at in enumerate((2, 5, 7))]
    alone = pd.DataFrame(pair_rows([first[0], second[0]], []))
    grouped = pd.DataFrame(corrected(list(group_difference_rows(first, second, []))))
    assert row(alone, measure=HALF)["significant"]
    assert not row(grouped, measure=HALF)["significant"]
    assert row(grouped, measure=HALF)["low"] < 0 < row(grouped, measure=HALF)["high"]


def test_holm_is_over_each_family_by_itself():
    rows = [{"family": f, "p": p, "low": 1.0, "high": 2.0}
            for f, p in (("depth", 0.02), ("depth", 0.03), ("share lost", 0.04))]  # fmt: skip
    found = {(each["family"], each["p"]): each["p_holm"] for each in corrected(rows)}
    assert found == pytest.approx(
        {("depth", 0.02): 0.04, ("depth", 0.03): 0.04, ("share lost", 0.04): 0.04}
    )


def test_over_the_page_holm_is_over_all_families_together():
    p = np.array([0.001, 0.02, 0.03, 0.012])
    families = ("depth", "depth", "share lost", "accuracy")
    rows = [{"family": f, "p": p, "low": 1.0, "high": 2.0}
            for f, p in zip(families, p, strict=True)]  # fmt: skip
    found = {each["p"]: each["p_run"] for each in corrected(rows)}
    expected = multipletests(p, method="holm")[1]
    assert found == pytest.approx(dict(zip(p, expected, strict=True)))


def test_a_page_without_differences_has_one_that_holds_in_one_of_twenty():
    """Three families at 5 % each claim something in 14 % of pages, and all together in 5 %."""
    rng, n = np.random.default_rng(2), data_sets(400)
    kinds = [f for f in ("accuracy", "depth", "share lost") for _ in range(6)]
    by_kind, over = 0, 0
    for _ in range(n):
        rows = [{"family": f, "p": p, "low": 1.0, "high": 2.0}
                for f, p in zip(kinds, rng.random(len(kinds)), strict=True)]  # fmt: skip
        told = pd.DataFrame(corrected(rows))
        by_kind += told["significant"].any()
        over += (told["p_run"] < 0.05).any()
    assert over <= most_errors(n)
    assert by_kind > over


def test_sentences_name_the_comparisons_that_they_are_corrected_over():
    rng = np.random.default_rng(0)
    base = rng.random(80) < 0.9
    pair = [ready(name, answers(rng, base, {at: 0.95})) for name, at in (("a", 1), ("b", 6))]
    table = frame("comparison_differences", pair_rows(pair, []))
    told = established(table)
    assert told
    depth = next(one for one in told if one.kind == "depth")
    assert depth.test.endswith(f"Holm over all {len(table)} comparisons of the page")
    missed = next(one for one in established(table.assign(p_run=1.0)) if one.kind == "depth")
    n = table["family"].value_counts()["depth"]
    assert f"Holm over {n} comparison" in missed.test
    assert f"Over all {len(table)} comparisons of the page (Holm) it does not" in missed.caveat
    earlier = established(table.assign(p_run=np.nan))
    assert all("of the page" not in one.full for one in earlier)
