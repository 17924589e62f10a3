"""The validity study on a small scale: what has no effect gets no claim, and saved tables hold."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerwise.models.organisms.layout import WiredLayout
from layerwise.report.summary import findings
from layerwise.stats import exact_interval
from layerwise.tasks import load_task

FOLDER = Path(__file__).parents[1] / "analyses" / "validity"
NOMINAL = 0.05


@pytest.fixture(scope="module")
def nothing():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("nothing")


@pytest.fixture(scope="module")
def planted():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("planted")


@pytest.mark.parametrize("case", ["random_weights", "shuffled_answers"])
def test_a_model_without_signal_gets_no_claim(nothing, case):
    result = getattr(nothing, case)(seed=1, n_items=24)
    effects = result.effects()
    assert len(effects) >= 6
    assert not effects["signal"].any()
    assert not effects["significant"].any()
    (only,) = findings([result])
    assert only.kind == "no signal"
    assert only.sentence.startswith("No claim about layers is made for 1 of 1")
    assert "not shown to be above chance" in only.sentence


def test_shuffled_answers_are_drawn_evenly_from_the_choices(nothing):
    task = load_task("wired-lookup", limit=200)
    mixed = nothing.shuffled(task, seed=0)
    assert all(item.answer in item.choices for item in mixed.items)
    kept = sum(a.answer == b.answer for a, b in zip(task.items, mixed.items, strict=True))
    assert 200 / 4 - 25 < kept < 200 / 4 + 25
    assert [i.question for i in mixed.items] == [i.question for i in task.items]


def test_redrawn_answers_have_signal_and_no_effect_on_average(nothing):
    tables = [nothing.redrawn(seed) for seed in range(40)]
    assert np.mean([table["signal"].all() for table in tables]) > 0.9
    differences = np.concatenate([table["acc_diff"] for table in tables])
    assert abs(differences.mean()) < 0.02
    assert differences.std() > 0.03  # noise that a test could mistake for effects
    false = sum(bool(table["significant"].any()) for table in tables)
    assert exact_interval(false, len(tables)).low <= NOMINAL
    uncorrected = sum(bool((table["p"] < NOMINAL).any()) for table in tables)
    assert uncorrected > 2 * NOMINAL * len(tables) > false


def test_the_saved_rates_are_at_most_nominal(nothing):
    told = nothing.told(pd.read_parquet(FOLDER / "results" / "nothing.parquet"))
    assert told["models"].eq(nothing.N_MODELS).all()
    assert (told["low"] <= NOMINAL).all()
    with_signal = told.set_index("case")["signal"]
    assert with_signal[nothing.REDRAWN] > 0.9 * nothing.N_MODELS


def test_the_saved_findings_are_what_was_planted(planted):
    table = pd.read_parquet(FOLDER / "results" / "planted.parquet")
    by_gradient = table["method"] == planted.within.GRADIENT
    assert table.loc[~by_gradient, "same"].all()
    # A gradient sees the head at the end of the chain, and only where that is all it is exact.
    estimated = table.loc[by_gradient]
    assert estimated["found"].tolist() == [[head] for head in estimated["planted"].str[-1]]
    assert estimated["same"].tolist() == estimated["capability"].eq("knowledge").tolist()
    assert table["model"].nunique() == planted.N_LAYOUTS
    layouts = {planted.random_layout(np.random.default_rng(seed)) for seed in range(20)}
    assert len(layouts) > 10
    assert all(isinstance(layout, WiredLayout) for layout in layouts)
