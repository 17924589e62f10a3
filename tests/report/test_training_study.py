"""The study of organisms' training: its saved tables hold, and its README says what they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from analyses.organism_training.plan import PLANTED
from layerwise.analyses.training.report import (
    first_layer_findings,
    move_findings,
    onset_findings,
)
from layerwise.presentation.rows import rows

FOLDER = Path(__file__).parents[2] / "analyses" / "training"
README = (FOLDER / "README.md").read_text("utf-8")
CONFIG = tomllib.loads((FOLDER / "config.toml").read_text("utf-8"))
SERIES = [f"{kind}-{seed}" for kind in CONFIG["kinds"] for seed in CONFIG["seeds"]]


def saved(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / "results" / f"{name}.csv")


def told(row: dict[str, object]) -> str:
    """An onset as the README has it."""
    return f"{row['onset']:.0f} [{row['low']:.0f}, {row['high']:.0f}]"


def test_every_checkpoint_was_asked_everything():
    accuracy, profile = saved("accuracy"), CONFIG["profile"]
    steps = CONFIG["checkpoints"]["steps"]
    assert len(steps) >= 30
    assert set(accuracy["series"]) == set(SERIES)
    asked = len(SERIES) * len(steps) * len(profile["tasks"]) * len(profile["protocols"])
    assert len(accuracy) == asked
    assert set(accuracy["n_items"]) == {profile["limit"]}


@pytest.mark.parametrize("series", SERIES)
def test_onsets_and_layers_in_the_readme_are_those_of_the_table(series: str):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {series} ")]
    mine = rows(saved("onsets"), series=series, protocol="generate").set_index("capability")
    cells = []
    for capability in ("retrieval", "knowledge", "reasoning"):
        row = mine.loc[capability].to_dict()
        if not row["appears"]:
            cells += ["never", ""]
            continue
        first, last = (row[name].replace(" ", ", ") for name in ("layers_first", "layers_last"))
        cells += [told(row), f"{first}; {'the same' if first == last else last}"]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells


def layers(listed: object) -> set[int]:
    return {int(layer) for layer in str(listed).split()}


def test_what_is_needed_first_stays_needed_and_is_what_was_planted():
    onsets = rows(saved("onsets"), appears=True)
    assert len(onsets) == 18 + 12
    for row in onsets.to_dict("records"):
        first, last = layers(row["layers_first"]), layers(row["layers_last"])
        assert first <= last
        if row["series"].startswith("planted"):
            assert last == set(PLANTED[row["capability"]])


def test_left_free_knowledge_spreads_and_two_hops_are_not_learned():
    free = saved("onsets").query("series.str.startswith('free')")
    assert not rows(free, capability="reasoning")["appears"].any()
    written = rows(free, capability="knowledge", protocol="generate")
    assert [layers(one) for one in written["layers_last"]] == [{0, 1, 2}] * 3
    assert all(len(layers(one)) < 3 for one in written["layers_first"])


def test_sentences_in_the_readme_were_earned():
    sentences = saved("sentences")
    earned = set(zip(sentences["short"], sentences["evidence"], strict=True))
    quoted = re.findall(r"^- (.+) \((established)\)$", README, flags=re.MULTILINE)
    assert quoted
    assert set(quoted) <= earned


def test_saved_sentences_are_made_again_from_the_tables():
    onsets, moves = saved("onsets"), saved("moves")
    for name in ("layers_first", "layers_last"):
        onsets[name] = onsets[name].map(lambda listed: sorted(layers(listed)), na_action="ignore")
    n_tests = len(CONFIG["checkpoints"]["steps"]) * 8 * 6
    made = [
        (series, claim.kind, claim.evidence)
        for series in SERIES
        for claim in (
            *onset_findings(rows(onsets, series=series), CONFIG["checkpoints"]["steps"], 0.2),
            *first_layer_findings(rows(onsets, series=series), n_tests),
            *move_findings(rows(moves, series=series)),
        )
    ]
    kept = saved("sentences")[["series", "kind", "evidence"]]
    assert made == list(kept.itertuples(index=False, name=None))


def test_moves_in_the_readme_are_those_of_the_table():
    moves = saved("moves")
    (count,) = re.findall(r"claimed in (\d+) of (\d+) rows", README)
    assert (int(count[0]), int(count[1])) == (sum(moves["significant"]), len(moves))
    largest = moves.loc[moves["change"].abs().idxmax()]
    values = [f"{largest[name]:.2f}".replace("-", "−") for name in ("change", "low", "high")]
    assert f"{values[0]} [{values[1]}, {values[2]}]" in README
