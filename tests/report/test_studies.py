"""The studies: their pages say what their saved tables say, and nothing measured is taught."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy.stats import t as student
from scipy.stats import ttest_1samp

import layerwise as lw
from analyses.organism_training import plan as decoder_plan
from analyses.organism_training.seq2seq import plan as seq2seq_plan
from layerwise.analyses.comparison.findings import difference_claims
from layerwise.analyses.loading import load
from layerwise.analyses.training.report import (
    first_layer_findings,
    move_findings,
    onset_findings,
)
from layerwise.models.organisms import ORGANISM
from layerwise.presentation.claim import (
    APART,
    GAINED,
    GENERAL,
    LENS,
    NEEDED,
    ORDER,
    PATCHING,
    ROLES,
    SPARED,
)
from layerwise.presentation.rows import rows
from layerwise.report.html import findings
from layerwise.storage.parquet import frame
from tests.cases import few_by_day

STUDIES = Path(__file__).parents[2] / "analyses"
CLAIMS = sorted(STUDIES.rglob("claims.json"))
PLANTED = {"decoder": decoder_plan.PLANTED, "seq2seq": seq2seq_plan.PLANTED}
QUOTED = re.compile(r"^- (.+) \((established|in its table|not established)\)$", re.MULTILINE)


@cache
def module(study: str, name: str) -> Any:
    """A module of a study's own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(STUDIES / study)
        return importlib.import_module(name)


@cache
def saved_table(study: str, name: str) -> pd.DataFrame:
    """A saved table of a study; not to be changed."""
    path = STUDIES / study / "results" / name
    csv = path.with_suffix(".csv")
    return pd.read_csv(csv) if csv.exists() else pd.read_parquet(path.with_suffix(".parquet"))


def tables(study: str) -> dict[str, pd.DataFrame]:
    return {
        path.stem: saved_table(study, path.stem)
        for path in (STUDIES / study / "results").glob("*.parquet")
    }


def page(study: str) -> str:
    return (STUDIES / study / "README.md").read_text("utf-8")


def config(study: str) -> dict[str, Any]:
    return tomllib.loads((STUDIES / study / "config.toml").read_text("utf-8"))


def saved_claims(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8"))


# --- what pages say ---------------------------------------------------------------------------


@pytest.mark.long(
    but=[
        "distillation-distillation_sentences",
        "adapters-adapter_sentences",
        "adapters-healed_sentences",
    ]
)
@pytest.mark.parametrize(
    ("study", "name"),
    [
        ("distillation", "distillation_sentences"), ("healing", "healing_sentences"),
        ("adapters", "adapter_sentences"), ("adapters", "healed_sentences"),
    ],
)  # fmt: skip
def test_the_pages_say_what_the_tables_say(study, name):
    numbers = (STUDIES / study / "results" / "numbers.md").read_text("utf-8")
    text, known = f"{page(study)}\n{numbers}", tables(study)
    assert module(study, name).in_readme(text, known) == text
    sentences = module(study, name).findings(known)
    assert len(sentences) > 12
    assert [sentence for sentence in sentences if sentence not in text] == []


@pytest.mark.parametrize("study", sorted({path.relative_to(STUDIES).parts[0] for path in CLAIMS}))
def test_quoted_claims_are_saved_ones(study):
    claims = [
        claim for path in (STUDIES / study).rglob("claims.json") for claim in saved_claims(path)
    ]
    quoted = set(QUOTED.findall(page(study)))
    assert quoted
    assert quoted <= {(claim["short"], claim["evidence"]) for claim in claims}


SAVED_RUNS = [path for path in CLAIMS if (path.parent / "run.json").exists()]


def table_bytes(claims: Path) -> int:
    return sum(path.stat().st_size for path in claims.parent.glob("*.parquet"))


SMALLEST = sorted(SAVED_RUNS, key=table_bytes)[:3]


@pytest.mark.long
@pytest.mark.slow
# By day those with the smallest tables.
@pytest.mark.parametrize("path", few_by_day(SAVED_RUNS, *SMALLEST))
def test_saved_claims_of_roles_are_made_again_from_the_tables(path):
    """The same layers of the same capabilities, as surely; words and examples may be others."""
    again = [claim.record() for claim in findings(load(path.parent))]
    about = [
        sorted(
            (claim["kind"], claim["evidence"], *claim["capabilities"], *claim["layers"])
            for claim in claims
            if claim["kind"] in ROLES
        )
        for claims in (again, saved_claims(path))
    ]
    assert about[0] == about[1]


@pytest.mark.parametrize("kind", PLANTED)
def test_claims_on_organisms_are_of_what_was_planted(kind):
    """Needed layers and crossings are planted ones, and no other; orders are those of the plan."""
    planted, claims = PLANTED[kind], {}
    for claim in saved_claims(
        STUDIES / "organism/results/claimed" / f"organism-{kind}/claims.json"
    ):
        claims.setdefault(claim["kind"], []).append(claim)
    named = [(claim["capabilities"][0], tuple(claim["layers"])) for claim in claims[NEEDED]]
    assert sorted(named) == sorted((name, tuple(layers)) for name, layers in planted.items())
    for claim in claims[APART]:
        one, other = (set(planted[name]) for name in claim["capabilities"])
        assert set(claim["layers"]) == one ^ other
        assert one - other
        assert other - one
    assert not {GENERAL, SPARED, GAINED} & claims.keys()
    for claim in claims[ORDER] + [one for one in claims[LENS] if len(one["capabilities"]) == 2]:
        first, later = claim["capabilities"]
        if claim["kind"] == LENS:  # "settles later than"
            first, later = later, first
        assert min(planted[first]) < min(planted[later])
        assert max(planted[first]) <= max(planted[later])
    for claim in claims[PATCHING]:
        (capability,), (layer,) = claim["capabilities"], claim["layers"]
        assert layer in planted[capability]


# --- distillation, healing, adapters ----------------------------------------------------------


def test_there_are_three_seeds_of_every_case_and_no_removed_layer_is_measured():
    cases = module("healing", "healing_figures").CASES
    given = config("healing")["cases"].items()
    assert {case: tuple(removed) for case, removed in given} == cases
    counts = [("healing", "gains", len(cases)), ("healing", "layers", len(cases) + 1),
              ("distillation", "gains", 3), ("distillation", "layers", 4)]  # fmt: skip
    for study, table, n in counts:
        assert len(saved_table(study, table)[["case", "seed"]].drop_duplicates()) == 3 * n
    for case, removed in cases.items():
        numbers = set(rows(saved_table("healing", "layers"), case=case)["original"])
        assert numbers == set(range(8)) - set(removed)


@pytest.mark.parametrize("case", ["adapted", "healed"])
def test_every_case_names_suites_and_options_that_there_are(case):
    given = config("adapters")
    options = given[case]
    names = inspect.signature(lw.heal if options["remove"] else lw.distill).parameters
    assert given["seed"] not in options["further_seeds"]
    assert set(options["training"]) <= set(names)
    tasks = module("adapters", "adapter_measurements").load_tasks(
        options["tasks"], options["fewshot"], given["seed"]
    )
    assert [task.name for task in tasks] == options["tasks"]
    assert {len(task.fewshot) for task in tasks} == {options["fewshot"]}


def test_the_adapted_suite_was_below_thirty_percent_and_is_better_on_held_out_items():
    (row,) = rows(saved_table("adapters", "gains"), case="adapted").to_dict("records")
    assert row["acc_student"] < 0.3
    assert row["improved"]
    assert row["gain_low"] > 0


def drawn_values(figure: Any, markers: str, along: str = "y") -> np.ndarray:
    every = (line for axes in figure.axes for line in axes.lines)
    drawn = [line for line in every if line.get_marker() in tuple(markers)]
    return np.sort(np.concatenate([getattr(line, f"get_{along}data")() for line in drawn]))


@pytest.mark.long
def test_figures_are_legible_and_have_every_seed():
    layers, moved = saved_table("distillation", "layers"), saved_table("distillation", "transplant")
    figure = module("distillation", "distillation_figures").where_two_hops_went(layers, moved)
    assert_legible(figure)
    shares = [rows(layers, protocol="generate")["share_lost"],
              rows(moved, direction="brings")["share"]]  # fmt: skip
    expected = 100 * np.sort(np.concatenate(shares).astype(float))
    np.testing.assert_allclose(drawn_values(figure, "os^D"), expected)

    drawing, gains = module("healing", "healing_figures"), saved_table("healing", "gains")
    figure = drawing.recovery_figure(gains)
    assert_legible(figure)
    written = rows(gains, protocol="generate")[["acc_teacher", "acc_student", "acc_distilled"]]
    expected = 100 * np.sort(written.to_numpy(float).ravel())
    np.testing.assert_allclose(drawn_values(figure, "os^"), expected)
    assert_legible(drawing.layer_losses_figure(saved_table("healing", "layers")))

    layers, moved = saved_table("adapters", "layers"), saved_table("adapters", "transplant")
    assert_legible(module("adapters", "adapter_figures").layer_effects_figure(layers, moved))

    depths = module("decoder_vs_seq2seq", "depths")
    estimates = saved_table("decoder_vs_seq2seq", "estimates")
    figure = depths.depths_over_seeds(estimates, 0.625)
    assert_legible(figure)
    shown = rows(estimates, family="depth", axis="computation")
    expected = [
        rows(shown, method=method, measure=measure, protocol=protocol)["estimate"]
        for method, measure, protocol in depths.PANELS
    ]
    assert list(drawn_values(figure, "|", "x")) == sorted(np.concatenate(expected))


def test_a_ratio_has_fiellers_interval():
    """At its bounds Student's t of the contrast rejects at 5 %; in between it does not."""
    rng, fieller = np.random.default_rng(0), module("distillation", "measures").fieller
    part, whole = rng.normal(0.6, 0.5, 60), rng.normal(1.0, 0.4, 60)
    share, low, high = fieller(part, whole)
    assert share == pytest.approx(part.mean() / whole.mean())
    for bound in (low, high):
        assert ttest_1samp(bound * whole - part, 0).pvalue == pytest.approx(0.05)
    assert ttest_1samp(share * whole - part, 0).pvalue > 0.99
    assert np.isinf(fieller(part, whole - whole.mean())[1])


def test_a_place_is_the_share_of_all_losses_in_the_teachers_layers():
    """Ten items: layer 3 takes all of them, layer 6 five, and layer 0 gives one back."""
    measures = module("distillation", "measures")
    right = {None: [False] + [True] * 9}
    right |= {layer: right[None] for layer in range(8)}
    right |= {3: [False] * 10, 6: [False] * 6 + [True] * 4, 0: [True] * 10}
    listed = [
        {
            "intervention": f"skip:{layer}", "kind": "intact" if layer is None else "skip",
            "site": None if layer is None else "layer", "layer": layer, "task": "two-hops",
            "capability": "reasoning", "item": f"{item}", "protocol": "generate",
            "correct": correct,
        }
        for layer, answers in right.items() for item, correct in enumerate(answers)
    ]  # fmt: skip
    (place,) = measures.places(frame("records", listed), "two-hops", 8).to_dict("records")
    assert place["share"] == pytest.approx(9 / (9 + 5 - 1))
    # a layer of a smaller student counts by what of it lies at the teacher's depths
    np.testing.assert_allclose(measures.overlap(8), [0, 0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(measures.overlap(4), [0, 1, 0.5, 0], atol=1e-12)


def test_intervals_over_seeds_are_students():
    values = np.array([0.2, 0.5, 0.35])
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(3)
    expected = (mean, *student.interval(0.95, 2, mean, error))
    over_seeds = module("decoder_vs_seq2seq", "depths").interval_over_seeds
    assert over_seeds(values) == pytest.approx(expected)


def test_a_difference_of_nothing_has_a_width():
    row = {"difference": 0.0, "low": 0.0, "high": 0.0, "n_items": 32}
    value, low, high = module("adapters", "seed_sentences").with_width(row)
    assert (value, low) == (0.0, -high)
    # At 2.5 % a share of so many other items would not show in 32 (Clopper and Pearson).
    assert high > 1 - 0.025 ** (1 / 32)


@pytest.mark.parametrize(
    ("study", "name", "others"),
    [("distillation", "students", {}),
     ("healing", "healed_models", {"facts": 30, "brackets": 30, "depths": [4, 5]})],
)  # fmt: skip
def test_nothing_that_is_kept_for_tests_is_trained_on(tmp_path, study, name, others):
    plan = {"look-up": 30, "two-hops": 30, "questions": 3, "first_links": 0.25} | others
    path = module(study, name).write_texts(tmp_path / "texts.jsonl", plan, 0)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    n_brackets = plan.get("brackets", 0)
    assert len(texts) == 60 + plan.get("facts", 0) + n_brackets
    for text in texts[:60]:
        stated = [one.split() for one in text.split(" ;") if one and "->" not in one]
        assert stated
        assert not [words for words in stated if ORGANISM.for_tests(*words)]
    for text in texts[len(texts) - n_brackets :] if n_brackets else []:
        opened = [one.split("->")[0].split()[1:] for one in text.split(" ;") if "open" in one]
        assert opened
        assert not [words for words in opened if ORGANISM.for_tests(*words)]


# --- decoders and encoder-decoders --------------------------------------------------------------


def test_losses_of_decoders_and_encoder_decoders_are_at_the_planted_layers_and_no_others():
    lost = rows(saved_table("decoder_vs_seq2seq", "layers"), protocol="generate", significant=True)
    layers = lost.groupby(["run", "capability"])["layer"].agg(tuple)
    assert len(layers) == 6 * 4
    for (run, capability), of_run in layers.items():
        assert of_run == PLANTED[run.split("-")[1]][capability]


def test_differences_between_stacks_are_those_of_the_estimates_and_make_the_claims():
    cell, study = ["capability", "protocol", "method", "measure"], "decoder_vs_seq2seq"
    every = rows(saved_table(study, "estimates"), family="depth", axis="computation")
    means = every.groupby(["group", *cell])["estimate"].mean()
    differences = saved_table(study, "differences")
    depths = rows(differences, family="depth", axis="computation", n_items=100)
    assert len(depths) > 10
    for row in depths.to_dict("records"):
        key = [row[name] for name in cell]
        expected = means["seq2seq", *key] - means["decoder", *key]
        assert row["difference"] == pytest.approx(expected, abs=1e-3)
    again = [claim.record() for claim in difference_claims(differences)]
    about = [
        sorted((one["kind"], one["evidence"], one["p"], one["estimate"]["value"]) for one in each)
        for each in (saved_claims(STUDIES / study / "results" / "claims.json"), again)
    ]
    assert about[0] == about[1]


# --- training -----------------------------------------------------------------------------------

TRAINING = config("training")
STEPS = TRAINING["checkpoints"]["steps"]
SERIES = [f"{kind}-{seed}" for kind in TRAINING["kinds"] for seed in TRAINING["seeds"]]


def listed_layers(listed: object) -> set[int]:
    return {int(layer) for layer in str(listed).split()}


def test_every_checkpoint_was_asked_everything():
    accuracy, profile = saved_table("training", "accuracy"), TRAINING["profile"]
    assert len(STEPS) >= 30
    assert set(accuracy["series"]) == set(SERIES)
    assert len(accuracy) == (
        len(SERIES) * len(STEPS) * len(profile["tasks"]) * len(profile["protocols"])
    )
    assert set(accuracy["n_items"]) == {profile["limit"]}


@pytest.mark.parametrize("series", SERIES)
def test_onsets_and_layers_in_the_readme_are_those_of_the_table(series: str):
    (line,) = [line for line in page("training").splitlines() if line.startswith(f"| {series} ")]
    onsets = rows(saved_table("training", "onsets"), series=series, protocol="generate")
    cells = []
    for capability in ("retrieval", "knowledge", "reasoning"):
        (row,) = rows(onsets, capability=capability).to_dict("records")
        if not row["appears"]:
            cells += ["never", ""]
            continue
        first, last = (row[name].replace(" ", ", ") for name in ("layers_first", "layers_last"))
        cells += [f"{row['onset']:.0f} [{row['low']:.0f}, {row['high']:.0f}]",
                  f"{first}; {'the same' if first == last else last}"]  # fmt: skip
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells


def test_what_is_needed_first_stays_needed_and_is_what_was_planted():
    onsets = rows(saved_table("training", "onsets"), appears=True)
    assert len(onsets) == 18 + 12
    for row in onsets.to_dict("records"):
        first, last = listed_layers(row["layers_first"]), listed_layers(row["layers_last"])
        assert first <= last
        if row["series"].startswith("planted"):
            assert last == set(PLANTED["decoder"][row["capability"]])


def test_left_free_knowledge_spreads_and_two_hops_are_not_learned():
    free = saved_table("training", "onsets").query("series.str.startswith('free')")
    assert not rows(free, capability="reasoning")["appears"].any()
    written = rows(free, capability="knowledge", protocol="generate")
    assert [listed_layers(listed) for listed in written["layers_last"]] == [{0, 1, 2}] * 3
    assert all(len(listed_layers(listed)) < 3 for listed in written["layers_first"])


def test_sentences_on_training_were_earned_and_are_made_again_from_the_tables():
    kept, moves = saved_table("training", "sentences"), saved_table("training", "moves")
    earned = set(zip(kept["short"], kept["evidence"], strict=True))
    quoted = QUOTED.findall(page("training"))
    assert quoted
    assert set(quoted) <= earned
    onsets = saved_table("training", "onsets").copy()
    for name in ("layers_first", "layers_last"):
        onsets[name] = onsets[name].map(
            lambda text: sorted(listed_layers(text)), na_action="ignore"
        )
    made = [
        (series, claim.kind, claim.evidence)
        for series in SERIES
        for claim in (
            *onset_findings(rows(onsets, series=series), STEPS, 0.2),
            *first_layer_findings(rows(onsets, series=series), len(STEPS) * 8 * 6),
            *move_findings(rows(moves, series=series)),
        )
    ]
    again = kept[["series", "kind", "evidence"]].itertuples(index=False, name=None)
    assert made == list(again)


def test_moves_in_the_readme_are_those_of_the_table():
    moves = saved_table("training", "moves")
    (count,) = re.findall(r"claimed in (\d+) of (\d+) rows", page("training"))
    assert (int(count[0]), int(count[1])) == (sum(moves["significant"]), len(moves))
    largest = moves.loc[moves["change"].abs().idxmax()]
    values = [f"{largest[name]:.2f}".replace("-", "−") for name in ("change", "low", "high")]
    assert f"{values[0]} [{values[1]}, {values[2]}]" in page("training")
