"""The study of distillation: its README says what its tables say, and its measures are right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy.stats import ttest_1samp

from layerwise.models.organisms import ORGANISM
from layerwise.presentation.rows import rows
from layerwise.storage.parquet import frame

FOLDER = Path(__file__).parents[2] / "analyses" / "distillation"
TABLES = (
    "curve", "differences", "estimates", "gains", "layers", "lens", "patching", "places", "signal",
    "transplant", "transplant_gaps", "transplant_ranks",
)  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Any:
    """The study's own modules by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        names = ("drawn", "measures", "students", "told")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def saved() -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(FOLDER / "results" / f"{name}.parquet") for name in TABLES}


def test_the_pages_say_what_the_tables_say(study, saved):
    pages = (FOLDER / "README.md", FOLDER / "results" / "numbers.md")
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assert study["told"].in_readme(text, saved) == text
    sentences = study["told"].findings(saved)
    assert len(sentences) > 15
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_there_are_three_seeds_of_every_case(study, saved):
    for name in ("gains", "curve"):
        assert len(saved[name][["case", "seed"]].drop_duplicates()) == 3 * 3
    for name in ("layers", "lens", "places", "signal"):
        assert len(saved[name][["case", "seed"]].drop_duplicates()) == 4 * 3


def test_the_figure_is_legible_and_has_every_seed(study, saved):
    figure = study["drawn"].where_two_hops_went(saved["layers"], saved["transplant"])
    assert_legible(figure)
    lines = [line for axes in figure.axes for line in axes.lines]
    drawn = [line.get_ydata() for line in lines if line.get_marker() in ("o", "s", "^", "D")]
    lost = rows(saved["layers"], protocol="generate")["share_lost"]
    moved = rows(saved["transplant"], direction="brings")["share"]
    wanted = 100 * np.concatenate([lost, moved]).astype(float)
    np.testing.assert_allclose(np.sort(np.concatenate(drawn)), np.sort(wanted))


def test_a_ratio_has_fiellers_interval(study):
    """At its bounds Student's t of the contrast rejects at 5 %; in between it does not."""
    rng = np.random.default_rng(0)
    part, whole = rng.normal(0.6, 0.5, 60), rng.normal(1.0, 0.4, 60)
    share, low, high = study["measures"].fieller(part, whole)
    assert share == pytest.approx(part.mean() / whole.mean())
    for bound in (low, high):
        assert ttest_1samp(bound * whole - part, 0).pvalue == pytest.approx(0.05)
    assert ttest_1samp(share * whole - part, 0).pvalue > 0.99
    assert np.isinf(study["measures"].fieller(part, whole - whole.mean())[1])


def test_a_layer_counts_by_what_of_it_lies_at_the_teachers_depths(study):
    overlap = study["measures"].overlap
    np.testing.assert_allclose(overlap(8), [0, 0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(overlap(4), [0, 1, 0.5, 0], atol=1e-12)


def test_a_place_is_the_share_of_all_losses_in_the_teachers_layers(study):
    """Ten items: layer 3 takes all of them, layer 6 five, and layer 0 gives one back."""
    changes = {("intact", None): [False] + [True] * 9}
    changes |= {("skip", layer): changes["intact", None] for layer in range(8)}
    changes["skip", 3] = [False] * 10
    changes["skip", 6] = [False] * 6 + [True] * 4
    changes["skip", 0] = [True] * 10
    table = frame(
        "records",
        [
            {
                "intervention": f"{kind}:{layer}", "kind": kind,
                "site": None if layer is None else "layer",
                "layer": layer, "task": "two-hops", "capability": "reasoning", "item": f"{item}",
                "protocol": "generate", "correct": right,
            }
            for (kind, layer), answers in changes.items() for item, right in enumerate(answers)
        ],
    )  # fmt: skip
    (place,) = study["measures"].places(table, "two-hops", 8).to_dict("records")
    assert place["share"] == pytest.approx(9 / (9 + 5 - 1))


def test_nothing_that_is_kept_for_tests_is_trained_on(study, tmp_path):
    plan = {"look-up": 40, "two-hops": 40, "questions": 3, "first_links": 0.25}
    path = study["students"].write_texts(tmp_path / "texts.jsonl", plan, 0)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(texts) == 80
    for text in texts:
        stated = [one.split() for one in text.split(" ;") if one and "->" not in one]
        assert len(stated) == 8
        assert not [words for words in stated if ORGANISM.for_tests(*words)]


def exchanged(direction: str, effects: dict[int, tuple[float, float]]) -> list[dict[str, object]]:
    """Single layers of one seed with what each moves of 0.8, its p, and bounds of 0.3 around."""
    return [
        {"seed": 0, "set": "single", "direction": direction, "layer": layer, "moved": moved,
         "p_run": p, "run_low": moved - 0.3, "run_high": moved + 0.3, "acc_base": 0.0,
         "acc_other": 0.8}
        for layer, (moved, p) in effects.items()
    ]  # fmt: skip


def test_what_a_layer_recovers_is_told_from_bounds_over_the_run(study):
    told = study["told"]
    few, open_ = ({0: (0.05, 1.0), 1: (moved, 1.0)} for moved in (0.09, 0.11))
    for effects, less in ((few, True), (open_, False)):
        low, high = told._shares_over_run(pd.DataFrame(exchanged("brings", effects)))
        assert low < 0
        assert (high < told.HALF) == less
    assert told._recovers([False], [True]).startswith("does not hold")
    assert told._recovers([False], [False]).startswith("is open")
    assert told._recovers([True], [False]).startswith("holds")


def test_few_significant_layers_do_not_show_that_few_are_needed(study):
    assert study["told"]._certain([False, False], 2).startswith("is not contradicted, nor shown")
    assert study["told"]._certain([True, True], 3).endswith("2 of 2 seeds, no signal in 1)")


def test_layers_that_move_alike_are_not_told_apart(study):
    alike = pd.DataFrame(exchanged("brings", {0: (0.05, 1.0), 1: (0.05, 1.0), 2: (0.0, 1.0)}))
    assert study["told"]._most(alike) == "5 [−25, 35] (2 layers alike)"
    assert study["told"]._most(alike.iloc[1:]).endswith("(layer 1)")


def test_layers_that_were_not_trained_are_not_told_of(study):
    every = pd.DataFrame(exchanged("destroys", {1: (0.4, 0.01), 3: (0.0, 1.0), 5: (-0.4, 0.01)}))
    alone = study["told"].trained_alone(every, "frozen")
    assert list(alone["layer"]) == [1, 5]
    assert study["told"].destroyers(alone) == ["{1}"]
