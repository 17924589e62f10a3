"""The studies: their pages say what their saved tables say, and nothing measured is taught."""

from __future__ import annotations

import importlib
import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy.stats import t as student
from scipy.stats import ttest_1samp

import layerwise as lw
from layerwise.models.organisms import ORGANISM
from layerwise.presentation.rows import rows
from layerwise.storage.parquet import frame

STUDIES = Path(__file__).parents[2] / "analyses"
MODULES = {
    "distillation": ("drawn", "measures", "students", "told"),
    "healing": ("healed_models", "healing_drawn", "healing_exchanged", "healing_told"),
    "adapters": (
        "adapters_drawn", "adapters_kept", "adapters_measured", "adapters_told", "healed_told",
        "seeds", "seeds_told",
    ),
}  # fmt: skip
CLAIMING = [("distillation", "told"), ("healing", "healing_told"), ("adapters", "adapters_told"),
            ("adapters", "healed_told")]  # fmt: skip


@pytest.fixture(scope="module")
def modules() -> Any:
    """The studies' own modules by name."""
    found = {}
    for study, names in MODULES.items():
        with pytest.MonkeyPatch.context() as patched:
            patched.syspath_prepend(STUDIES / study)
            found |= {name: importlib.import_module(name) for name in names}
    return found


@pytest.fixture(scope="module")
def saved() -> dict[str, dict[str, pd.DataFrame]]:
    """The saved tables of each study by name."""
    return {
        study: {
            path.stem: pd.read_parquet(path)
            for path in (STUDIES / study / "results").glob("*.parquet")
        }
        for study in MODULES
    }


def config_of(study: str) -> dict[str, Any]:
    return tomllib.loads((STUDIES / study / "config.toml").read_text())


@pytest.mark.parametrize(("study", "module"), CLAIMING)
def test_the_pages_say_what_the_tables_say(modules, saved, study, module):
    pages = (STUDIES / study / "README.md", STUDIES / study / "results" / "numbers.md")
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assert modules[module].in_readme(text, saved[study]) == text
    sentences = modules[module].findings(saved[study])
    assert len(sentences) > 12
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_there_are_three_seeds_of_every_case(modules, saved):
    cases = modules["healing_drawn"].CASES
    assert {case: tuple(removed) for case, removed in config_of("healing")["cases"].items()} == (
        cases
    )
    counted = [("healing", "gains", len(cases)), ("healing", "layers", len(cases) + 1)]
    counted += [("distillation", "gains", 3), ("distillation", "layers", 4)]
    for study, table, n in counted:
        assert len(saved[study][table][["case", "seed"]].drop_duplicates()) == 3 * n
    for case, removed in cases.items():
        numbers = set(rows(saved["healing"]["layers"], case=case)["original"])
        assert numbers == set(range(8)) - set(removed)


def test_the_adapted_suite_was_below_thirty_percent_and_is_better_on_held_out_items(saved):
    (row,) = rows(saved["adapters"]["gains"], case="adapted").to_dict("records")
    assert row["acc_student"] < 0.3
    assert row["improved"]
    assert row["gain_low"] > 0


@pytest.mark.parametrize("case", ["adapted", "healed"])
def test_every_case_names_suites_and_options_that_there_are(modules, case):
    config = config_of("adapters")
    options = config[case]
    names = inspect.signature(lw.heal if options["remove"] else lw.distill).parameters
    assert config["seed"] not in options["further_seeds"]
    assert set(options["training"]) <= set(names)
    tasks_of = modules["adapters_measured"].tasks_of
    tasks = tasks_of(options["tasks"], options["fewshot"], config["seed"])
    assert [task.name for task in tasks] == options["tasks"]
    assert {len(task.fewshot) for task in tasks} == {options["fewshot"]}


def drawn_values(figure: Any, markers: tuple[str, ...]) -> np.ndarray:
    lines = [line for axes in figure.axes for line in axes.lines]
    return np.sort(
        np.concatenate([line.get_ydata() for line in lines if line.get_marker() in markers])
    )


def test_figures_are_legible_and_have_every_seed(modules, saved):
    tables = saved["distillation"]
    figure = modules["drawn"].where_two_hops_went(tables["layers"], tables["transplant"])
    assert_legible(figure)
    lost = rows(tables["layers"], protocol="generate")["share_lost"]
    moved = rows(tables["transplant"], direction="brings")["share"]
    wanted = 100 * np.concatenate([lost, moved]).astype(float)
    np.testing.assert_allclose(drawn_values(figure, ("o", "s", "^", "D")), np.sort(wanted))

    tables = saved["healing"]
    figure = modules["healing_drawn"].what_came_back(tables["gains"])
    assert_legible(figure)
    gains = rows(tables["gains"], protocol="generate")
    wanted = 100 * gains[["acc_teacher", "acc_student", "acc_distilled"]].to_numpy(float).ravel()
    np.testing.assert_allclose(drawn_values(figure, ("o", "s", "^")), np.sort(wanted))
    assert_legible(modules["healing_drawn"].where_it_lies(tables["layers"]))

    tables = saved["adapters"]
    drawn = modules["adapters_drawn"]
    assert_legible(drawn.where_it_is_done(tables["layers"], tables["transplant"]))


def test_a_ratio_has_fiellers_interval(modules):
    """At its bounds Student's t of the contrast rejects at 5 %; in between it does not."""
    rng = np.random.default_rng(0)
    part, whole = rng.normal(0.6, 0.5, 60), rng.normal(1.0, 0.4, 60)
    share, low, high = modules["measures"].fieller(part, whole)
    assert share == pytest.approx(part.mean() / whole.mean())
    for bound in (low, high):
        assert ttest_1samp(bound * whole - part, 0).pvalue == pytest.approx(0.05)
    assert ttest_1samp(share * whole - part, 0).pvalue > 0.99
    assert np.isinf(modules["measures"].fieller(part, whole - whole.mean())[1])


def test_a_layer_counts_by_what_of_it_lies_at_the_teachers_depths(modules):
    overlap = modules["measures"].overlap
    np.testing.assert_allclose(overlap(8), [0, 0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(overlap(4), [0, 1, 0.5, 0], atol=1e-12)


def test_a_place_is_the_share_of_all_losses_in_the_teachers_layers(modules):
    """Ten items: layer 3 takes all of them, layer 6 five, and layer 0 gives one back."""
    right = {("intact", None): [False] + [True] * 9}
    right |= {("skip", layer): right["intact", None] for layer in range(8)}
    right["skip", 3] = [False] * 10
    right["skip", 6] = [False] * 6 + [True] * 4
    right["skip", 0] = [True] * 10
    table = frame(
        "records",
        [
            {
                "intervention": f"{kind}:{layer}", "kind": kind,
                "site": None if layer is None else "layer",
                "layer": layer, "task": "two-hops", "capability": "reasoning", "item": f"{item}",
                "protocol": "generate", "correct": correct,
            }
            for (kind, layer), answers in right.items() for item, correct in enumerate(answers)
        ],
    )  # fmt: skip
    (place,) = modules["measures"].places(table, "two-hops", 8).to_dict("records")
    assert place["share"] == pytest.approx(9 / (9 + 5 - 1))


def test_intervals_over_seeds_are_students(modules):
    values = [0.2, 0.5, 0.35]
    mean, low, high = modules["healing_told"].over_seeds(values)
    wanted = student.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / np.sqrt(3))
    assert (mean, low, high) == pytest.approx((np.mean(values), *wanted))


def test_a_difference_of_nothing_has_a_width(modules):
    row = {"difference": 0.0, "low": 0.0, "high": 0.0, "n_items": 32}
    value, low, high = modules["seeds_told"].with_width(row)
    assert (value, low) == (0.0, -high)
    # At 2.5 % a share of so many other items would not show in 32 (Clopper and Pearson).
    assert high > 1 - 0.025 ** (1 / 32)


def test_nothing_that_is_kept_for_tests_is_trained_on(modules, tmp_path):
    plans = {
        "students": {"look-up": 40, "two-hops": 40},
        "healed_models": {"look-up": 30, "two-hops": 30, "facts": 30, "brackets": 30,
                          "depths": [4, 5]},
    }  # fmt: skip
    for module, plan in plans.items():
        plan = plan | {"questions": 3, "first_links": 0.25}
        path = modules[module].write_texts(tmp_path / f"{module}.jsonl", plan, 0)
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        n_pairs = plan["look-up"] + plan["two-hops"]
        assert len(texts) == n_pairs + plan.get("facts", 0) + plan.get("brackets", 0)
        for text in texts[:n_pairs]:
            stated = [one.split() for one in text.split(" ;") if one and "->" not in one]
            assert stated
            assert not [words for words in stated if ORGANISM.for_tests(*words)]
        for text in texts[len(texts) - plan.get("brackets", 0) :]:
            opened = [one.split("->")[0].split()[1:] for one in text.split(" ;") if "open" in one]
            assert bool(opened) == ("brackets" in plan)
            assert not [words for words in opened if ORGANISM.for_tests(*words)]


def test_a_layer_that_was_not_needed_before_makes_it_others(modules):
    """Two hops need layers 2 and 3 before; after healing those, or layer 5, too, or no signal."""

    def lost(case: str, seed: int, layers: set[int]) -> list[dict[str, Any]]:
        return [
            {"case": case, "seed": seed, "task": "two-hops", "protocol": "generate",
             "original": layer, "significant": layer in layers, "share_lost": 0.5}
            for layer in range(8) if layer != 4
        ]  # fmt: skip

    sets = ((0, {2, 3}, True), (1, {2, 5}, True), (2, {2, 3}, False))
    each = [row for seed, after, _ in sets
            for row in lost("original", seed, {2, 3}) + lost("two-hops", seed, after)]  # fmt: skip
    gains = [
        {"case": "two-hops", "seed": seed, "task": "two-hops", "protocol": "generate",
         "improved": improved} for seed, _, improved in sets
    ]  # fmt: skip
    tables = {"layers": pd.DataFrame(each), "gains": pd.DataFrame(gains)}
    placed = modules["healing_told"].placed(tables, "two-hops", "two-hops")
    assert placed == {0: "same", 1: "others", 2: "none"}


def test_a_carrier_brings_the_gain_and_its_return_destroys_it(modules):
    """Layer 3 does both, 5 only destroys, and 7 brings less than before it brought nothing."""
    each = [
        {"case": "adapted", "task": "sum-chain", "set": "single", "direction": way,
         "layer": layer, "p_run": p, "moved": moved}
        for way, layer, p, moved in (
            ("brings", 3, 0.01, 0.2), ("destroys", 3, 0.01, 0.3), ("destroys", 5, 0.01, 0.3),
            ("brings", 5, 0.4, 0.1), ("brings", 7, 0.01, -0.2), ("destroys", 7, 0.01, 0.2),
        )
    ]  # fmt: skip
    assert modules["adapters_told"].carriers({"transplant": pd.DataFrame(each)}) == [3]


def test_tables_of_a_case_are_made_anew_and_others_stay(modules, tmp_path, monkeypatch):
    monkeypatch.setattr(modules["adapters_kept"], "RESULTS", tmp_path)
    for name in ("gains", "layers"):
        pd.DataFrame({"case": ["base", "healed"], "value": [1, 2]}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    made = pd.DataFrame({"case": ["healed"], "value": [3]})
    whole = modules["adapters_kept"].beside_saved({"gains": [made], "new": [made]}, ["healed"])
    assert {name: list(table["value"]) for name, table in whole.items()} == {
        "gains": [1, 3], "layers": [1, 2], "new": [3]
    }  # fmt: skip
