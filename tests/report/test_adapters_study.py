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
    "curve", "differences", "further_curve", "further_differences", "further_gains", "gains",
    "layers", "lens", "patching", "signal", "transplant", "transplant_gaps", "transplant_ranks",
)  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Any:
    """The study's own modules by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        names = ("adapters_drawn", "adapters_kept", "adapters_measured", "adapters_told",
                 "healed_told", "seeds", "seeds_told")  # fmt: skip
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def saved() -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(FOLDER / "results" / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "config.toml").read_text())


def test_the_pages_say_what_the_tables_say(study, saved):
    pages = (FOLDER / "README.md", FOLDER / "results" / "numbers.md")
    text = "\n".join(page.read_text("utf-8") for page in pages)
    for name in ("adapters_told", "healed_told"):
        assert study[name].in_readme(text, saved) == text
    of_both = [study[name].findings(saved) for name in ("adapters_told", "healed_told")]
    assert all(len(sentences) > 12 for sentences in of_both)
    assert [one for sentences in of_both for one in sentences if one not in text] == []


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
    assert config["seed"] not in asked["further_seeds"]
    assert set(asked["training"]) <= set(names)
    tasks_of = study["adapters_measured"].tasks_of
    found = tasks_of(asked["tasks"], asked["fewshot"], config["seed"])
    assert [task.name for task in found] == asked["tasks"]
    assert {len(task.fewshot) for task in found} == {asked["fewshot"]}
    swept = config["swept"]
    for task in tasks_of(swept[case], swept["fewshot"], config["seed"]):
        assert len(task.fewshot) == swept["fewshot"][task.name]


def healed_tables() -> dict[str, pd.DataFrame]:
    """Suites that come back, do not, come back no further than guesses, and were never lost."""
    gains = [
        {"case": "healed", "task": task, "capability": "reasoning", "protocol": "generate",
         "n_items": 40, "acc_teacher": 0.9, "acc_student": before, "acc_distilled": after,
         "signal_teacher": True, "signal_student": before > 0.5,
         "signal_distilled": task != "lists", "leads": before < 0.5, "improved": improved,
         "p_holm": 0.01 if after - before > 0.1 else 0.4, "lead_p_holm": 0.02}
        | {f"{name}{end}": value for name, value in (("lead", 0.9 - before),
           ("gain", after - before), ("closed", 0.5)) for end in ("", "_low", "_high")}
        for task, before, after, improved in (
            ("sums", 0.1, 0.7, True), ("pairs", 0.2, 0.25, False), ("lists", 0.0, 0.3, False),
            ("names", 0.88, 0.88, False))
    ]  # fmt: skip
    layers = [
        {"case": case, "task": "arithmetic", "protocol": "generate", "original": layer,
         "significant": layer in sure, "share_lost": 0.4, "signal": True, "acc_intact": 0.5,
         "n_items": 32}
        for case, sure in (("base", {0, 1}), ("healed", {0, 12})) for layer in (0, 1, 12)
    ]  # fmt: skip
    moved = [
        {"case": "healed", "task": "arithmetic", "set": "single", "direction": way,
         "original": layer, "share": share, "share_low": 0.0, "share_high": 1.0, "p_run": p,
         "moved": 0.2}
        for way in ("brings", "destroys") for layer, share, p in ((12, 0.6, 0.01), (18, 0.1, 0.8))
    ]  # fmt: skip
    points = {step: 1.0 / (1 + step) for step in range(0, 41, 10)}
    curve = [
        {"case": "healed", "step": step, "held_out_kl": points.get(step)} for step in range(41)
    ]
    made = {"gains": gains, "layers": layers, "transplant": moved, "curve": curve}
    return {name: pd.DataFrame(each) for name, each in made.items()}


def test_what_comes_back_and_what_does_not_is_told(study):
    told = study["healed_told"].findings(healed_tables())
    assert told[0].startswith("**Of 4 suites under a protocol, 3 lose significantly by the six")
    assert "better after healing (first seed): 1 (`sums` under `generate`);" in told[0]
    assert "guessing may account for: 1 (`lists` under `generate`)." in told[0]
    assert "that anything comes back: 1 (`pairs` under `generate`)." in told[0]
    text = " ".join(told)
    assert "healed model needs for sums of two numbers 2 layers significantly under" in text
    assert "under `generate`: 0 and 12; of 16 right answers 7 must be lost" in text
    assert "1 are not shown to be needed by the whole one: 12." in text
    assert "after 20 steps and after 40: 1.000, 0.048 and 0.024." in text
    assert "is layer 12: 60 [0, 100] %" in text
    assert "No signal without the layers." in told[1]


def test_without_an_established_gain_nothing_is_told_of_layers_that_carry_it(study):
    tables = healed_tables()
    gap = {"case": "healed", "task": "arithmetic", "protocol": "generate", "n_items": 24,
           "p_holm": 0.2}  # fmt: skip
    tables |= {"transplant": tables["transplant"].iloc[:0], "transplant_gaps": pd.DataFrame([gap])}
    told = " ".join(study["healed_told"].findings(tables))
    assert "the 24 sums of two numbers on which layers are exchanged the gain is not" in told
    assert "(p = 0.200)" in told


def test_without_the_case_nothing_is_told_of_healing(study, saved):
    tables = {name: table[table["case"] != "healed"] for name, table in saved.items()}
    assert study["healed_told"].findings(tables) == []
    assert study["healed_told"].in_readme("as it was", tables) == "as it was"


def test_the_figure_of_healing_is_legible(study):
    assert_legible(study["adapters_drawn"].what_healing_brings(healed_tables()["gains"]))


def again_tables() -> dict[str, pd.DataFrame]:
    """The healed suites, and a second training in which pairs come back and sums do not."""
    tables = healed_tables()
    second = tables["gains"].assign(training_seed=2)
    sums, pairs = second["task"] == "sums", second["task"] == "pairs"
    second.loc[sums, ["acc_distilled", "improved"]] = [0.4, False]
    second.loc[pairs, "improved"] = True
    second = second.assign(n_gained=5, n_lost=2)
    differences = [
        {"case": "healed", "training_seed": 2, "family": family, "capability": "knowledge",
         "tasks": "names", "protocol": "generate", "difference": value, "low": value - 0.1,
         "high": value + 0.1, "p_holm": p, "n_items": 32}
        for family, value, p in (("accuracy", -0.2, 0.01), ("accuracy", 0.3, 0.01),
                                 ("accuracy", -0.1, 0.3), ("depth", -0.5, 0.01))
    ]  # fmt: skip
    return tables | {"further_gains": second, "further_differences": pd.DataFrame(differences)}


def test_in_how_many_trainings_a_suite_is_better_is_told(study):
    (told,) = study["seeds_told"].held_again(again_tables(), "healed")
    assert "account for: with 1 of 2 seeds `sums` under `generate` and `pairs` under" in told
    assert "; with 0 of 2 seeds `lists` under `generate` and `names`" in told
    assert "at most 30 points apart" in told


def test_each_further_training_is_told_with_its_intervals(study):
    (told,) = study["seeds_told"].learned_again(again_tables(), "healed")
    assert told.startswith("Trained with seed 2, right of the same items: `sums` under `generate`")
    assert "10 % before and 40 % after, 60 [60, 60] points, 5 won and 2 lost (p = 0.010)" in told
    assert "50 [50, 50] % of the loss, which guessing may account for; `pairs`" in told


def test_losses_of_suites_without_training_are_counted(study):
    (told,) = study["seeds_told"].kept_again(again_tables(), "healed")
    assert "knowledge (`names`) under `generate` −20 [−30, −10] (p = 0.010)" in told
    assert "−50" not in told
    assert told.endswith("a loss is established of 1 of 3.")


def test_without_a_further_training_nothing_is_told_of_seeds(study):
    told = study["seeds_told"]
    for tell in (told.held_again, told.learned_again, told.kept_again):
        assert list(tell(healed_tables(), "healed")) == []


def test_tables_of_a_case_are_made_anew_and_others_stay(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study["adapters_kept"], "RESULTS", tmp_path)
    for name in ("gains", "layers"):
        pd.DataFrame({"case": ["base", "healed"], "value": [1, 2]}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    made = pd.DataFrame({"case": ["healed"], "value": [3]})
    whole = study["adapters_kept"].beside_saved({"gains": [made], "new": [made]}, ["healed"])
    assert {name: list(table["value"]) for name, table in whole.items()} == {
        "gains": [1, 3], "layers": [1, 2], "new": [3]
    }  # fmt: skip


def sums_of_layers(right: int, losses: dict[int, float]) -> pd.DataFrame:
    """Layers of a model that answers so many of 32 right, and what each takes of it."""
    return pd.DataFrame([
        {"layer": layer, "acc_intact": right / 32, "n_items": 32, "share_lost": share,
         "significant": share > 0.7, "signal": True} for layer, share in losses.items()
    ])  # fmt: skip


def test_that_no_layer_could_be_significant_is_told(study):
    """Eight items lost of eight are p = 0.0078, and eight layers are asked."""
    significant = study["adapters_told"].significant
    told = significant(sums_of_layers(8, dict.fromkeys(range(8), 0.5)), "layer")
    assert "needs" not in told
    assert "and could not: of 8 right answers not even all are enough for one of 8 layers" in told
    told = significant(
        sums_of_layers(9, {0: 1.0, 1: 1.0} | dict.fromkeys(range(2, 8), 0.5)), "layer"
    )
    assert told.startswith("2 layers significantly under `generate`: 0 and 1; of 9 right answers 9")
    assert told.endswith("most is lost without layers 0 and 1, 100 %")


@pytest.mark.parametrize(("n_gap", "word"), [(4, "is open"), (24, "in 1 of 3 layers: 5")])
def test_whether_a_layer_could_carry_the_gain_is_told(study, n_gap, word):
    """Six tests, in which eight items moved one way are the least that is significant."""
    each = [
        {"case": "adapted", "task": "sum-chain", "set": "single", "direction": way,
         "layer": layer, "p_run": 0.01 if layer == 5 else 1.0, "moved": 0.2 if layer == 5 else 0.0,
         "run_low": -0.1, "run_high": 0.3, "n_items": 30, "acc_base": 0.0,
         "acc_other": n_gap / 30}
        for way in ("brings", "destroys") for layer in (3, 4, 5)
    ]  # fmt: skip
    ranks = pd.DataFrame(columns=["case", "task", "direction"])
    tables = {"transplant": pd.DataFrame(each), "transplant_ranks": ranks}
    told = list(study["adapters_told"].moved(tables))
    assert "is 6 of 30 items (layer 5), 20 [−10, 30] points" in told[0]
    assert word in told[-1]


def test_a_difference_of_nothing_has_a_width(study):
    row = {"difference": 0.0, "low": 0.0, "high": 0.0, "n_items": 32}
    value, low, high = study["seeds_told"].with_width(row)
    assert (value, low) == (0.0, -high)
    # At 2.5 % a share of so many other items would not show in 32 (Clopper and Pearson).
    assert high > 1 - 0.025 ** (1 / 32)
    other = row | {"low": -0.1, "high": 0.1}
    assert study["seeds_told"].with_width(other) == (0.0, -0.1, 0.1)
