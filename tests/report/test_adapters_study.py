"""The study of adapters: its README says what its tables say, and its cases can be made."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from legible import assert_legible

import layerwise as lw
from layerwise.presentation.rows import rows

FOLDER = Path(__file__).parents[2] / "analyses" / "adapters"
TABLES = (
    "curve", "differences", "gains", "layers", "lens", "patching", "signal", "transplant",
    "transplant_gaps", "transplant_ranks",
)  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Any:
    """The study's own modules by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        names = ("adapters_drawn", "adapters_measured", "adapters_told")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def saved() -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(FOLDER / "results" / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "config.toml").read_text())


def test_the_readme_says_what_the_tables_say(study, saved):
    text = (FOLDER / "README.md").read_text()
    sentences = study["adapters_told"].findings(saved)
    assert len(sentences) > 12
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_the_suite_was_below_thirty_percent_and_is_better_on_held_out_items(saved):
    (told,) = rows(saved["gains"], case="adapted").to_dict("records")
    assert told["acc_student"] < 0.3
    assert told["improved"]
    assert told["gain_low"] > 0


def test_the_figure_is_legible(study, saved):
    figure = study["adapters_drawn"].where_it_is_done(saved["layers"], saved["transplant"])
    assert_legible(figure)


def test_a_carrier_brings_the_gain_and_its_return_destroys_it(study):
    """Layer 3 does both, 5 only destroys, and 7 brings less than before it brought nothing."""
    each = [
        {"case": "adapted", "task": "sum-chain", "set": "single", "direction": way,
         "layer": layer, "p_run": p, "moved": moved}
        for way, layer, p, moved in (
            ("brings", 3, 0.01, 0.2), ("destroys", 3, 0.01, 0.3), ("destroys", 5, 0.01, 0.3),
            ("brings", 5, 0.4, 0.1), ("brings", 7, 0.01, -0.2), ("destroys", 7, 0.01, 0.2),
        )
    ]  # fmt: skip
    assert study["adapters_told"].carriers({"transplant": pd.DataFrame(each)}) == [3]


@pytest.mark.parametrize("case", ["adapted", "healed"])
def test_every_case_names_suites_and_options_that_there_are(study, config, case):
    asked = config[case]
    names = inspect.signature(lw.heal if asked["remove"] else lw.distill).parameters
    assert set(asked["training"]) <= set(names)
    tasks_of = study["adapters_measured"].tasks_of
    found = tasks_of(asked["tasks"], asked["fewshot"], config["seed"])
    assert [task.name for task in found] == asked["tasks"]
    assert {len(task.fewshot) for task in found} == {asked["fewshot"]}
    swept = config["swept"]
    for task in tasks_of(swept[case], swept["fewshot"], config["seed"]):
        assert len(task.fewshot) == swept["fewshot"][task.name]
