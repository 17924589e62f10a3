"""Quantities of runs and differences between them: brute force, planted, and where nothing is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp
from statsmodels.stats.multitest import multipletests

from layerwise import stats
from layerwise.analyses.comparison.findings import difference_claims
from layerwise.analyses.comparison.quantities import (
    COMPARED,
    Key,
    PreparedRun,
    Quantity,
    depth_thirds,
    quantities,
)
from layerwise.analyses.comparison.tables import correct_families, difference_rows, estimate_rows
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.joint_null import critical_distance, mixture_p
from layerwise.stats.share_tests.same_share import TaskLosses, share_difference
from layerwise.storage.parquet import frame
from tests import weak
from tests.cases import data_sets, in_long_runs, most_errors
from tests.comparing import CHANCE, answers, pair_rows, ready, row

HALF = "half-effect depth"


def sharing_answers(seed: int = 0, n: int = 80) -> Callable[..., PreparedRun]:
    """Maker of runs of models that answer the same items, most of them alike."""
    rng = np.random.default_rng(seed)
    base = rng.random(n) < 0.9

    def run(
        name: str, hits: dict[int, float], n_resamples: int = 400, n_encoder: int = 0, **how: Any
    ) -> PreparedRun:
        return ready(name, answers(rng, base, hits, **how), n_resamples, n_encoder=n_encoder)

    return run


def pair(
    hits: dict[int, float], others: dict[int, float], seed: int = 0, n: int = 80, **how: Any
) -> list[PreparedRun]:
    run = sharing_answers(seed, n)
    return [run("one", hits, **how), run("two", others, **how)]


def single_quantity(
    found: dict[Key, list[Quantity]], family: str, measure: str, axis="computation"
):
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
            late = single_quantity(found, "share lost", "late third")[r].draws[i]
            assert late == pytest.approx(share[5:].mean())  # 5.5 / 8 is beyond two thirds
            half = single_quantity(found, "depth", HALF)[r].draws[i]
            if share.sum() > 0:
                assert half == pytest.approx((_half(share) + 0.5) / 8)
            else:
                assert np.isnan(half)
            assert single_quantity(found, "accuracy", "accuracy")[r].draws[i] == pytest.approx(
                intact
            )


def _half(importance: np.ndarray) -> float:
    """Depth at which the cumulative importance passes one half, by walking along it."""
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
    run = sharing_answers()
    runs = [run(f"of {n}", {layer: 1.0}, n_layers=n, noise=0.0) for n, layer in ((4, 1), (8, 3))]
    found = row(pd.DataFrame(pair_rows(runs, [])), measure=HALF)
    assert (found["estimate_first"], found["estimate_second"]) == (1.5 / 4, 3.5 / 8)
    told = pd.DataFrame(list(estimate_rows(runs)))
    sizes = told.loc[told["family"] == "critical set"].set_index("run")["estimate"]
    assert sizes.to_dict() == {"of 4": 1 / 4, "of 8": 1 / 8}


def test_accuracies_are_tested_as_scipy_does():
    run = sharing_answers(3)
    runs = [run("one", {}, noise=0.3), run("two", {}, noise=0.8, accuracy=0.6)]
    found = row(pd.DataFrame(pair_rows(runs, [])), family="accuracy")
    one, two = (run.cells["keys", "letter"].intact for run in runs)
    only = int((one & ~two).sum()), int((~one & two).sum())
    assert found["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert found["difference"] == pytest.approx(two.mean() - one.mean())
    assert found["low"] < found["difference"] < found["high"]


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


@pytest.mark.long
def test_where_nothing_differs_tests_keep_their_level():
    """Pairs of models of one truth: p < 0.05 as often as that, and Holm's family less."""
    hits, families = defaultdict(list), defaultdict(list)
    for seed in range(data_sets(60)):
        runs = pair({3: 0.6, 4: 0.4}, {3: 0.6, 4: 0.4}, seed, n=50, n_resamples=200)
        rows = pd.DataFrame(pair_rows(runs, []))
        for (family, measure), mine in rows.groupby(["family", "measure"]):
            hits[family, measure] += mine["p"].lt(0.05).tolist()
        for family, mine in rows.groupby("family"):
            families[family].append(bool(mine["significant"].any()))
    assert set(families) == set(COMPARED)
    for what, found in [*hits.items(), *families.items()]:
        assert sum(found) <= most_errors(len(found)), what


@pytest.mark.long
def test_models_that_need_the_same_layers_do_not_differ_in_them_if_one_is_right_more_often():
    """Half of the layers cost each two fifths of what it has above the floor; only that differs.

    How many layers have a significant loss does differ, since the one has more to lose: 6 against 3
    of 12 on average, so that sizes of critical sets are not compared.
    """
    sets, told, sizes = data_sets(60), defaultdict(int), []
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
    run = sharing_answers()
    seq = run("seq", {1: 1.0, 6: 1.0}, noise=0.0, n_encoder=4)
    other = run("other", {2: 1.0, 6: 1.0}, noise=0.0, n_encoder=4)
    plain = run("plain", {2: 1.0}, noise=0.0)
    mixed, both = quantities([seq, plain]), quantities([seq, other])
    assert {key.axis for key in mixed} == {"computation", "decoder"}
    assert {key.axis for key in both} == {"computation", "encoder", "decoder"}
    assert {key.axis for key in quantities([plain])} == {"computation"}
    inside = [single_quantity(mixed, "depth", HALF, "decoder")[i].draws[0] for i in (0, 1)]
    assert inside == pytest.approx([2.5 / 4, 2.5 / 8])
    encoders = [single_quantity(both, "depth", HALF, "encoder")[i].draws[0] for i in (0, 1)]
    assert encoders == pytest.approx([1.5 / 4, 2.5 / 4])


@given(st.integers(1, 60))
def test_each_layer_is_in_the_third_that_its_middle_lies_in(n: int):
    thirds = depth_thirds(n)
    assert sorted(layer for layers in thirds.values() for layer in layers) == list(range(n))
    bounds = {"early": (0, 1 / 3), "middle": (1 / 3, 2 / 3), "late": (2 / 3, 1)}
    for name, layers in thirds.items():
        low, high = bounds[name]
        assert all(low - 1e-9 <= (layer + 0.5) / n <= high + 1e-9 for layer in layers)


def test_groups_are_compared_with_the_run_as_the_unit():
    run = sharing_answers()
    groups = [
        [run(f"{name}{i}", {layer: 0.9, layer + 1: 0.1 * i}) for i in range(3)]
        for name, layer in (("a", 2), ("b", 5))
    ]
    differences = difference_rows(dict(zip("ab", groups, strict=True)), [])
    rows = pd.DataFrame(correct_families(list(differences)))
    found = row(rows, measure=HALF)
    halves = [
        [single_quantity(quantities([r]), "depth", HALF)[0].draws[0] for r in g] for g in groups
    ]
    assert found["difference"] == pytest.approx(np.mean(halves[1]) - np.mean(halves[0]))
    assert found["significant"]
    assert (found["n_first"], found["n_second"], found["unit"]) == (3, 3, "run")
    assert found["error_runs"] > 0
    assert found["error_items"] > 0


def test_seeds_that_differ_among_themselves_establish_nothing():
    """Two runs alone would be told apart for sure; as seeds of two groups they are not."""
    run = sharing_answers()
    first = [run(f"a{i}", {layer: 0.95}) for i, layer in enumerate((1, 4, 6))]
    second = [run(f"b{i}", {layer: 0.95}) for i, layer in enumerate((2, 5, 7))]
    alone = pd.DataFrame(pair_rows([first[0], second[0]], []))
    differences = difference_rows({"a": first, "b": second}, [])
    grouped = pd.DataFrame(correct_families(list(differences)))
    assert row(alone, measure=HALF)["significant"]
    assert not row(grouped, measure=HALF)["significant"]
    assert row(grouped, measure=HALF)["low"] < 0 < row(grouped, measure=HALF)["high"]


def test_holm_is_over_each_family_and_over_the_page_with_what_was_left_out():
    p, families = np.array([0.001, 0.02, 0.03, 0.012]), ("depth", "depth", "share lost", "accuracy")
    rows = [{"family": family, "p": p, "low": 1.0, "high": 2.0}
            for family, p in zip(families, p, strict=True)]  # fmt: skip
    found = pd.DataFrame(correct_families(rows)).set_index("p")
    assert found["p_holm"].to_dict() == pytest.approx({0.001: 0.002, 0.02: 0.02, 0.03: 0.03,
                                                       0.012: 0.012})  # fmt: skip
    assert found["p_run"].loc[p].tolist() == pytest.approx(multipletests(p, method="holm")[1])
    (alone,) = correct_families([rows[1]])
    assert (alone["p_holm"], alone["p_run"], alone["significant"]) == (0.02, 0.02, True)
    (among,) = correct_families([rows[1]], {"depth": 3, "share lost": 2})
    assert (among["p_holm"], among["significant"]) == (pytest.approx(0.06), False)
    assert among["p_run"] == pytest.approx(0.1)


def test_sentences_name_the_comparisons_that_they_are_corrected_over():
    runs = pair({1: 0.95}, {6: 0.95})
    table = frame("comparison_differences", pair_rows(runs, []))
    told = difference_claims(table)
    assert told
    depth = next(one for one in told if one.kind == "depth")
    assert depth.test.endswith(f"Holm over all {len(table)} comparisons of the page")
    missed = next(one for one in difference_claims(table.assign(p_run=1.0)) if one.kind == "depth")
    n = table["family"].value_counts()["depth"]
    assert f"Holm over {n} comparison" in missed.test
    assert f"Over all {len(table)} comparisons of the page (Holm) it does not" in missed.caveat
    earlier = difference_claims(table.assign(p_run=np.nan))
    assert all("of the page" not in one.full for one in earlier)


def draw_losses(
    rng: np.random.Generator, accuracy: float, n: int, taken: float = 0.0
) -> TaskLosses:
    """Answers drawn anew under each of four layers, one of which takes a share to chance."""
    right = rng.random((n, 5)) < accuracy
    hit = rng.random(n) < taken
    right[hit, 1] = rng.random(int(hit.sum())) < 0.25
    intact = right[:, 0].astype(float)
    return TaskLosses(intact - right[:, 1:].mean(axis=1), intact - 0.25)


def z_score(values: np.ndarray) -> float:
    found = ttest_1samp(values, 0)
    return float(np.sign(found.statistic) * norm.isf(found.pvalue / 2))


@pytest.mark.parametrize("accuracies", [(0.9, 0.6), *in_long_runs(((0.6, 0.9),), ((0.8, 0.8),))])
def test_p_and_bounds_are_those_of_plain_t_tests_at_every_share(accuracies):
    """Squared length of both contrasts in standard errors, by the inverse of their correlation."""
    rng = np.random.default_rng(1)
    one, other = (
        draw_losses(rng, a, 80, taken) for a, taken in zip(accuracies, (0.2, 1), strict=True)
    )
    found = share_difference([one], [other], Clusters.singletons(80))
    shares = np.linspace(-0.7, 1.1, 73)
    values = [[each.lost - share * each.above for share in shares] for each in (one, other)]
    z = [[z_score(of_share) for of_share in mine] for mine in values]
    together = np.corrcoef(np.concatenate(values))[:73, 73:]
    lengths = np.empty((73, 73))
    for i in range(73):
        for k in range(73):
            inverse = np.linalg.inv(np.array([[1, together[i, k]], [together[i, k], 1]]))
            pair = np.array([z[0][i], z[1][k]])
            lengths[i, k] = pair @ inverse @ pair
    assert found.p == pytest.approx(mixture_p(lengths.diagonal().min()), rel=0.1)
    kept = lengths <= critical_distance(0.05)
    apart = (shares[None] - shares[:, None])[kept]
    assert [found.low, found.high] == pytest.approx([apart.min(), apart.max()], abs=0.05)


def test_clusters_of_the_same_answers_are_single_items():
    rng = np.random.default_rng(0)
    one, other = draw_losses(rng, 0.9, 40, 0.1), draw_losses(rng, 0.8, 40, 0.9)
    twice = [TaskLosses(*(np.repeat(part, 2) for part in each)) for each in (one, other)]
    clusters = Clusters.from_labels(np.repeat([f"fact {i}" for i in range(40)], 2).tolist())
    found = share_difference([twice[0]], [twice[1]], clusters)
    alone = share_difference([one], [other], Clusters.singletons(40))
    assert found == pytest.approx(alone)


def test_of_a_model_that_is_hardly_above_chance_no_difference_is_excluded():
    rng = np.random.default_rng(3)
    strong, hardly = draw_losses(rng, 0.9, 100), draw_losses(rng, 0.3, 100)
    assert share_difference([strong], [hardly], Clusters.singletons(100)).high == np.inf
    none = TaskLosses(np.zeros(100), np.full(100, -0.1))
    assert share_difference([strong], [none], Clusters.singletons(100)) == (-np.inf, np.inf, 1.0)


@pytest.mark.parametrize(
    ("accuracies", "taken"),
    [((0.8, 0.35), 0.0), ((0.95, 0.6), 1.0),
     *in_long_runs(((0.8, 0.8), 0.0), ((0.45, 0.45), 1.0), ((0.8, 0.45), 1.0))],
)  # fmt: skip
def test_the_same_share_is_called_different_as_rarely_as_stated(accuracies, taken):
    rng, n = np.random.default_rng(0), data_sets(400)
    found = [
        share_difference(
            *([draw_losses(rng, a, 60, taken)] for a in accuracies), Clusters.singletons(60)
        )
        for _ in range(n)
    ]
    assert sum(each.p < 0.05 for each in found) <= most_errors(n)
    assert sum(not each.low <= 0 <= each.high for each in found) <= most_errors(n)


@pytest.mark.parametrize(
    ("accuracy", "noise", "hits"),
    in_long_runs((0.4, 1.0, {}), (0.33, 1.0, {}), (0.36, 1 / 3, {}), (0.4, 1 / 3, {2: 1.0}),
                 (0.45, 1.0, {})),
)  # fmt: skip
def test_a_model_that_hardly_knows_the_answers_is_told_apart_as_rarely_as_stated(
    accuracy, noise, hits
):
    """Neither needs any layer, or both the same; the tasks compared are those of lucky answers."""
    n, compared, told = data_sets(40), 0, 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        runs = [
            weak.prepared_run(name, weak.run_cells(rng, accuracy=right, noise=noise, hits=hits))
            for name, right in (("strong", 0.8), ("weak", accuracy))
        ]
        rows = pd.DataFrame(pair_rows(runs, []))
        losses = rows.loc[rows["family"] == "share lost"]
        compared += len(losses) > 0
        told += bool(losses["significant"].any())
    assert compared > n / 10
    assert told <= most_errors(n)


@pytest.mark.long
@pytest.mark.parametrize("accuracy", [0.28, 0.33, 0.4])
def test_models_that_hardly_know_the_answers_differ_in_them_as_rarely_as_stated(accuracy):
    """Two are equally often right; accuracies are compared where one of them was lucky."""
    n, told = data_sets(120), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        runs = [
            weak.prepared_run(name, weak.run_cells(rng, accuracy=accuracy, noise=1.0, n_layers=1))
            for name in ("one", "two")
        ]
        told += any(row["significant"] for row in pair_rows(runs, []))
    assert told <= most_errors(n)
