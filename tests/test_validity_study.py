"""The validity study on a small scale: what has no effect gets no claim, and saved tables hold."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from layerwise.models.organisms.layout import WiredLayout
from layerwise.report.html import findings
from layerwise.stats import exact_interval
from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE
from layerwise.tasks import load_task
from tests.cases import data_sets, in_long_runs, most_errors

FOLDER = Path(__file__).parents[1] / "analyses" / "validity"
NOMINAL = 0.05


def part(name: str) -> ModuleType:
    """A module of the study."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        return importlib.import_module(name)


nothing, planted, planted_seq2seq, tuned, guessing = map(
    part, ("null_models", "planted", "planted_seq2seq", "tuned", "guessing")
)


@pytest.mark.long
@pytest.mark.parametrize("case", [*in_long_runs(("shuffled_answers",)), "random_weights"])
def test_a_model_without_signal_gets_no_claim(case):
    result = getattr(nothing, case)(seed=1, n_items=24)
    effects = result.effects()
    assert len(effects) >= 6
    assert not effects["signal"].any()
    assert not effects["significant"].any()
    (only,) = findings([result])
    assert only.kind == "no signal"
    said = "Nothing is said of what layers cost for wired-lookup when it chooses"
    assert only.short.startswith(said)
    assert "not shown to be better than chance" in only.full


def test_shuffled_answers_are_drawn_evenly_from_the_choices():
    task = load_task("wired-lookup", limit=200)
    mixed = nothing.shuffle_answers(task, seed=0)
    assert all(item.answer in item.choices for item in mixed.items)
    kept = sum(a.answer == b.answer for a, b in zip(task.items, mixed.items, strict=True))
    assert 200 / 4 - 25 < kept < 200 / 4 + 25
    assert [i.question for i in mixed.items] == [i.question for i in task.items]


@pytest.mark.long
def test_redrawn_answers_have_signal_and_no_effect_on_average():
    tables = [nothing.redrawn(seed) for seed in range(24)]
    assert np.mean([table["signal"].all() for table in tables]) > 0.9
    differences = np.concatenate([table["acc_diff"] for table in tables])
    assert abs(differences.mean()) < 0.02
    assert differences.std() > 0.03  # noise that a test could mistake for effects
    false = sum(bool(table["significant"].any()) for table in tables)
    assert exact_interval(false, len(tables)).low <= NOMINAL
    uncorrected = sum(bool((table["p"] < NOMINAL).any()) for table in tables)
    assert uncorrected > 2 * NOMINAL * len(tables) > false


def test_the_saved_rates_are_at_most_nominal():
    table = pd.read_parquet(FOLDER / "results" / "nothing.parquet")
    asked = table.loc[table["case"] != nothing.REDRAWN]
    assert (asked["silent"].astype(bool) == ~asked["signal"]).all()
    told = nothing.false_claim_rates(table)
    assert told["models"].eq(nothing.N_MODELS).all()
    assert (told["low"] <= NOMINAL).all()
    with_signal = told.set_index("case")["signal"]
    assert with_signal[nothing.REDRAWN] > 0.9 * nothing.N_MODELS


def test_the_saved_findings_are_what_was_planted():
    table = pd.read_parquet(FOLDER / "results" / "planted.parquet")
    by_gradient = table["method"] == planted.wired_methods.GRADIENT
    assert table.loc[~by_gradient, "same"].all()
    # A gradient sees the head at the end of the chain, and only where that is all it is exact.
    estimated = table.loc[by_gradient]
    assert estimated["found"].tolist() == [[head] for head in estimated["planted"].str[-1]]
    assert estimated["same"].tolist() == estimated["capability"].eq("knowledge").tolist()
    assert table["model"].nunique() == planted.N_LAYOUTS
    layouts = {planted.random_layout(np.random.default_rng(seed)) for seed in range(20)}
    assert len(layouts) > 10
    assert all(isinstance(layout, WiredLayout) for layout in layouts)


def test_the_saved_findings_in_encoder_decoders_are_what_was_planted():
    table = pd.read_parquet(FOLDER / "results" / "planted_seq2seq.parquet")
    by_gradient = table["method"].str.startswith("attribution patching")
    same = [list(a) == list(b) for a, b in zip(table["planted"], table["found"], strict=True)]
    assert table["same"].tolist() == same
    assert table.loc[~by_gradient, "same"].all()
    # What is copied on as a value is seen, and what acts by way of a query is not.
    seen = table.loc[by_gradient, ["planted", "found"]]
    assert all(set(row.found) <= set(row.planted) for row in seen.itertuples())
    told = {f"{kind} {site}" for kind, site in planted_seq2seq.CHANGES}
    assert {method.split(",")[0] for method in table["method"]} > told
    assert table["model"].nunique() == planted_seq2seq.N_LAYOUTS
    drawn = [planted_seq2seq.random_layout(np.random.default_rng(seed)) for seed in range(20)]
    assert len(set(drawn)) > 10


@pytest.mark.long
def test_a_tuned_lens_claims_no_depth_where_there_is_no_signal(monkeypatch):
    monkeypatch.setattr(tuned, "STEPS", 30)
    monkeypatch.setattr(nothing, "N_ITEMS", 20)
    (row,) = tuned.untrained_rows(1).to_dict("records")
    assert not row["signal"]
    assert row["claimed"] == 0
    # It comes near the final distribution here too, which says nothing of any capability.
    assert row["lower"] == row["n_depths"] == 6


def test_the_saved_tuned_lenses_read_what_is_there_and_nothing_before():
    readings = pd.read_parquet(FOLDER / "results" / "tuned_readings.parquet")
    assert set(zip(readings["model"], readings["lens"], strict=True)) == {
        (name, lens) for name in (*tuned.ORGANISMS, tuned.WIRED) for lens in tuned.LENSES
    }
    assert (readings.loc[readings["readable"], "on_top"] > 0.95).all()
    # The first bracket to close stands one word back: see the page on validity.
    brackets = (readings["capability"] == "coherence") & (readings["lens"] != "logit")
    organisms = readings["model"].isin(tuned.ORGANISMS) & ~readings["readable"] & ~brackets
    plain = readings["lens"].eq("logit") & readings["capability"].eq("coherence")
    assert (readings.loc[organisms & ~plain, "on_top"] < 0.1).all()
    wired = readings.loc[readings["model"] == tuned.WIRED]
    assert (wired.loc[~wired["there"].astype(bool), "on_top"] < 0.25).all()
    looked_up = wired.loc[wired["there"].astype(bool) & ~wired["readable"]]
    assert set(looked_up["capability"]) == {"retrieval", "reasoning"}
    full = looked_up["lens"] == "full"
    assert (looked_up.loc[full, "on_top"] > 0.3).all()
    assert (looked_up.loc[~full, "on_top"] == 0).all()


def test_the_saved_tuned_lenses_are_nearer_and_claim_nothing_of_random_weights():
    layers = pd.read_parquet(FOLDER / "results" / "tuned_layers.parquet")
    organisms = layers.loc[layers["model"].isin(tuned.ORGANISMS)]
    assert organisms.groupby(["model", "kind"])["layer"].count().eq(8).all()
    assert (organisms["difference_low"] > 0).all()
    assert organisms.loc[organisms["kind"] == "full", "lower"].all()
    untrained = pd.read_parquet(FOLDER / "results" / "tuned_untrained.parquet")
    assert len(untrained) == tuned.N_MODELS
    assert not untrained.loc[~untrained["signal"], "claimed"].any()
    assert (untrained["claimed_alone"] > 0).mean() <= NOMINAL


@pytest.mark.long
def test_methods_that_patch_would_claim_of_guesses_what_they_do_not_claim():
    """Of this model a depth and cells would be told if reversed pairs were not counted."""
    table = guessing.measure({nothing.RANDOM: [2]})
    assert set(table["case"]) == {nothing.RANDOM}
    assert not table["claims"].any()
    patched = table.loc[table["method"] == guessing.PATCHED]
    assert (patched["unguarded"] > 0).all()


def test_the_saved_claims_of_guesses_are_at_most_nominal():
    told = guessing.claim_rates(pd.read_parquet(FOLDER / "results" / "nothing_methods.parquet"))
    sizes = {case: len(seeds) for case, seeds in guessing.MODELS.items()}
    assert told["models"].tolist() == told["case"].map(sizes).tolist()
    assert (told["low"] <= NOMINAL).all()
    patched = told.loc[told["method"] == guessing.PATCHED]
    assert (patched["unguarded"] > 2 * NOMINAL * patched["models"]).all()


def test_the_saved_findings_in_organisms_are_as_written_beforehand_but_where_told():
    within_trained = part("trained_methods")
    table = pd.read_parquet(FOLDER / "results" / "trained_methods.parquet")
    assert set(table["method"]) == set(within_trained.RULES)
    assert table["model"].nunique() == len(within_trained.NAMES)
    for row in table.itertuples():
        rule = within_trained.RULES[row.method]
        expected = None if rule is None else rule(list(row.planted), list(row.found))
        assert pd.isna(row.same) if expected is None else row.same == expected
    other = table.loc[table["same"].eq(False).fillna(False), ["method", "capability"]]
    assert {(method.split(":")[0], capability) for method, capability in other.to_numpy()} == {
        ("patch resid_pre", "coherence"),
        ("patch heads", "coherence"),
        ("half-effect depth by direct attribution", "knowledge"),
        ("half-effect depth by patching", "coherence"),
    }


def test_the_page_begins_with_the_table_that_the_saved_results_give():
    page = (FOLDER.parents[1] / "docs" / "validity.md").read_text()
    assert part("overview").table(FOLDER / "results") in page


@pytest.mark.long
def test_a_page_of_one_scale_claims_no_other_layers():
    sentences = part("sentences")
    said = sentences.sentences(sentences.one_scale, np.random.default_rng(0))
    assert any(sentences.is_told(one, "needed") for one in said)
    for kind in sentences.FALSE[sentences.HARDER]:
        assert not any(sentences.is_told(one, kind) for one in said)


def test_the_saved_pages_say_what_is_false_no_more_often_than_is_nominal():
    """Sentences over a run; within a table, those that are corrected over the run anyway."""
    sentences = part("sentences")
    table = pd.read_parquet(FOLDER / "results" / "sentences.parquet")
    rates = sentences.false_sentence_rates(table)
    assert set(zip(rates["case"], rates["kind"], strict=True)) == {
        (case, kind) for case, kinds in sentences.FALSE.items() for kind in kinds
    }
    assert (rates["low"] <= NOMINAL).all()
    assert rates["rate"].max() <= 2 * NOMINAL


def test_the_saved_claims_of_what_layers_are_for_are_false_as_rarely_as_is_nominal():
    rates = pd.read_parquet(FOLDER / "results" / "layer_claims.parquet")
    assert set(rates["world"]) == {world.name for world in part("layer_claims").worlds()}
    gains = pd.read_parquet(FOLDER / "results" / "layer_gains.parquet")
    assert max(rates["rate"].max(), gains["rate"].max()) <= NOMINAL


@pytest.mark.long
def test_claims_of_what_layers_are_for_are_rarely_false():
    layer_claims = part("layer_claims")
    weak = [world for world in layer_claims.worlds() if "right in 36 %" in world.name]
    rng, false = np.random.default_rng(0), 0
    for _ in range(8):
        table = layer_claims.estimates(layer_claims.made_up_cells(rng, weak[0].asked), gate=True)
        false += bool(len(table) and (table["established"] & weak[0].false(table)).any())
    assert false <= 2


def test_the_pages_on_statistics_state_the_saved_rates():
    table = pd.read_parquet(FOLDER / "results" / "stated.parquet")
    docs = FOLDER.parents[1] / "docs"
    pages = ("evidence/depths.md", "statistics/effects.md")
    page = "".join((docs / name).read_text("utf-8") for name in pages)
    stated = part("stated_claims")
    rates = {what: (100 * rows["rate"]).round().astype(int).tolist()
             for what, rows in table.groupby("what")}  # fmt: skip
    *few, most = rates[stated.REPORTED]
    assert f"A depth is reported in {', '.join(map(str, few))} and {most} %" in page
    assert f"A t-test that their mean is small is wrong in {rates[stated.T_TEST][0]} of 100" in page
    assert f"it is wrong in {rates[stated.T_TEST][1]} of 100" in page


def test_gaps_of_scoring_steps_are_far_off_where_there_is_less_to_lose_than_a_sentence_needs():
    module = part("scoring_claims")
    table = pd.read_parquet(FOLDER / "results" / "scoring_gaps.parquet")
    assert set(table["right"]) == set(module.RIGHT)
    far = table.groupby("right")["far"].sum() / table.groupby("right")["sets"].sum()
    assert far[far.index >= LEAST_TO_LOSE].max() <= 0.1 < far[far.index < LEAST_TO_LOSE].min()
    none = table.loc[table["gap"] == 0]
    assert (none["significant"] / none["sets"] <= NOMINAL).all()
    rng, n_sets = np.random.default_rng(0), data_sets(40)
    _, sure = module.gaps(rng, LEAST_TO_LOSE, 0.0, n_sets)
    assert sure.sum() <= most_errors(n_sets)


@pytest.mark.long
def test_pairs_of_layers_of_a_weak_model_interact_over_the_run_as_rarely_as_stated():
    module = part("weak_interactions")
    table = pd.read_parquet(FOLDER / "results" / "weak_interactions.parquet")
    assert (table["run_low"] <= NOMINAL).all()
    assert (table["runs"] == module.N_RUNS).all()
    pairs = module.pairs_table(module.simulate_run(np.random.default_rng(0), 0.4), module.chance, 0)
    assert len(pairs) % 66 == 0 < len(pairs)
    assert (pairs["p_run"] >= NOMINAL).all()


def test_crossings_are_never_claimed_where_one_order_explains_all():
    module = part("crossing_claims")
    rates = pd.read_parquet(FOLDER / "results" / "crossing_claims.parquet")
    assert set(rates["world"]) == {world.name for world in module.one_order_worlds()}
    assert (rates.loc[rates["what"] == "crossing", "low"] <= NOMINAL).all()
    # What crossings replace: shares of a task that is only harder.
    harder = rates.loc[rates["world"].str.startswith("margins of") & (rates["what"] != "crossing")]
    assert harder["rate"].max() > 0.5
    rng, world = np.random.default_rng(0), module.one_order_worlds()[1]
    for _ in range(3):
        table = module.estimates(module.made_up_cells(rng, world.asked, world.n))
        assert not table.query("what == 'crossing'")["established"].any()


def test_a_planted_crossing_is_found_with_enough_items():
    power = pd.read_parquet(FOLDER / "results" / "crossing_power.parquet")
    large = power.query("points == 60 and `items of a task` >= 70")
    assert large["crossing"].min() > 0.9
