"""The study of healing: its README says what its tables say, and nothing measured is taught."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy.stats import t as student

from layerwise.models.organisms import ORGANISM
from layerwise.presentation.rows import rows

FOLDER = Path(__file__).parents[2] / "analyses" / "healing"
TABLES = (
    "curve", "differences", "estimates", "gains", "layers", "lens", "patching", "signal",
    "transplant", "transplant_ranks",
)  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Any:
    """The study's own modules by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        names = ("healed_models", "healing_drawn", "healing_exchanged", "healing_told")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def saved() -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(FOLDER / "results" / f"{name}.parquet") for name in TABLES}


def test_the_pages_say_what_the_tables_say(study, saved):
    pages = (FOLDER / "README.md", FOLDER / "results" / "numbers.md")
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assert study["healing_told"].in_readme(text, saved) == text
    sentences = study["healing_told"].findings(saved)
    assert len(sentences) > 15
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_there_are_three_seeds_of_every_case(study, saved):
    cases = study["healing_drawn"].CASES
    config = tomllib.loads((FOLDER / "config.toml").read_text())
    assert {case: tuple(removed) for case, removed in config["cases"].items()} == cases
    for name, n in (("gains", len(cases)), ("layers", len(cases) + 1), ("lens", len(cases) + 1)):
        assert len(saved[name][["case", "seed"]].drop_duplicates()) == 3 * n


def test_layers_have_the_originals_numbers(study, saved):
    assert study["healed_models"].original_numbers([3, 6], 8) == [0, 1, 2, 4, 5, 7]
    for case, removed in study["healing_drawn"].CASES.items():
        numbers = set(rows(saved["layers"], case=case)["original"])
        assert numbers == set(range(8)) - set(removed)


@pytest.mark.parametrize("name", ["what_came_back", "where_it_lies"])
def test_figures_are_legible(study, saved, name):
    table = saved["gains" if name == "what_came_back" else "layers"]
    assert_legible(getattr(study["healing_drawn"], name)(table))


def test_the_figure_of_what_came_back_has_every_seed(study, saved):
    figure = study["healing_drawn"].what_came_back(saved["gains"])
    lines = [line for axes in figure.axes for line in axes.lines]
    drawn = [line.get_ydata() for line in lines if line.get_marker() in ("o", "s", "^")]
    told = rows(saved["gains"], protocol="generate")
    wanted = 100 * told[["acc_teacher", "acc_student", "acc_distilled"]].to_numpy(float).ravel()
    np.testing.assert_allclose(np.sort(np.concatenate(drawn)), np.sort(wanted))


def test_intervals_over_seeds_are_students(study):
    values = [0.2, 0.5, 0.35]
    mean, low, high = study["healing_told"].over_seeds(values)
    wanted = student.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / np.sqrt(3))
    assert (mean, low, high) == pytest.approx((np.mean(values), *wanted))


def test_a_layer_that_was_not_needed_before_makes_it_others(study):
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
    placed = study["healing_told"].placed(tables, "two-hops", "two-hops")
    assert placed == {0: "same", 1: "others", 2: "none"}


def test_nothing_that_is_kept_for_tests_is_healed_on(study, tmp_path):
    plan = {"look-up": 30, "two-hops": 30, "facts": 30, "brackets": 30, "questions": 3,
            "first_links": 0.25, "depths": [4, 5]}  # fmt: skip
    path = study["healed_models"].write_texts(tmp_path / "texts.jsonl", plan, 0)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(texts) == 120
    for text in texts[:60]:
        stated = [one.split() for one in text.split(" ;") if one and "->" not in one]
        assert stated
        assert not [words for words in stated if ORGANISM.for_tests(*words)]
    for text in texts[90:]:
        opened = [one.split("->")[0].split()[1:] for one in text.split(" ;") if "open" in one]
        assert opened
        assert not [words for words in opened if ORGANISM.for_tests(*words)]


def test_depths_that_differ_by_less_than_a_layer_are_not_told_as_alike(study):
    each = [
        {"case": case, "family": "depth", "axis": "computation", "capability": "knowledge",
         "measure": "half-effect depth", "method": "ablation", "protocol": "generate",
         "difference": value, "low": value - 0.01, "high": value + 0.01, "p_holm": p,
         "significant": large}
        for case in study["healing_drawn"].CASES
        for value, p, large in ((0.2, 0.01, True), (-0.05, 0.01, False), (0.01, 0.6, False))
    ]  # fmt: skip
    told = list(study["healing_told"].depths({"differences": pd.DataFrame(each)}))
    assert told[0].startswith("Without layer 1, of 3 relative depths 2 differ significantly")
    assert told[0].endswith("0.20 [0.19, 0.21]).")
    assert "1 of these by a layer or more" in told[0]


def test_no_layer_is_told_of_a_suite_without_signal(study, saved):
    told = " ".join(study["healing_told"].needed(saved))
    assert "{}" not in told
    assert "two hops under `generate` have no signal in the healed models" in told
    lens, patching = study["healing_told"].read(saved)
    assert "two hops no signal, no signal, no signal (4, 4, 4)" in lens
    assert "two hops no signal, no signal, no signal (3, 3, 3)" in patching


@pytest.mark.parametrize(("removed", "forced"), [({2, 3}, True), ({2}, False)])
def test_others_are_the_only_answer_where_what_was_needed_is_left_out(
    study, monkeypatch, removed, forced
):
    monkeypatch.setitem(study["healing_drawn"].CASES, "two-hops", tuple(removed))
    each = [
        {"case": "original", "seed": 0, "task": "look-up", "protocol": "generate",
         "original": layer, "significant": layer in (2, 3), "share_lost": 0.5}
        for layer in range(8)
    ]  # fmt: skip
    told = study["healing_told"]._forced({"layers": pd.DataFrame(each)}, "two-hops", "look-up")
    assert bool(told) == forced


def test_the_most_of_layers_that_move_alike_names_none(study):
    table = pd.DataFrame({"original": [0, 1, 5], "moved": [0.1, 0.1, 0.0],
                          "run_low": [-0.1] * 3, "run_high": [0.3] * 3})  # fmt: skip
    assert study["healing_exchanged"]._most(table) == "10 [−10, 30] (2 layers alike)"
    assert study["healing_exchanged"]._most(table.iloc[1:]).endswith("(layer 1)")
