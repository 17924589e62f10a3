"""The study of an organism's training: its saved tables hold, and its README says what they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from layerwise.organisms.plan import PLANTED
from layerwise.presentation.rows import rows

FOLDER = Path(__file__).parents[2] / "analyses" / "training"
README = (FOLDER / "README.md").read_text("utf-8")
CONFIG = tomllib.loads((FOLDER / "config.toml").read_text("utf-8"))
SERIES = [f"planted-{seed}" for seed in CONFIG["seeds"]]


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
def test_onsets_in_the_readme_are_those_of_the_table(series: str):
    lines = [line for line in README.splitlines() if line.startswith(f"| {series} ")]
    mine = rows(saved("onsets"), series=series).to_dict("records")
    assert len(lines) == len(CONFIG["profile"]["protocols"])
    for row in mine:
        (line,) = [one for one in lines if f"| {row['protocol']} " in one]
        assert (told(row) if row["appears"] else "not shown") in line


def test_layers_needed_first_and_last_are_the_planted_ones():
    """Under generate."""
    onsets = saved("onsets")
    for series in SERIES:
        for row in rows(onsets, series=series, protocol="generate").to_dict("records"):
            last = {int(layer) for layer in str(row["layers_last"]).split()}
            assert last == set(PLANTED[row["capability"]])
            assert {int(layer) for layer in str(row["layers_first"]).split()} <= last


def test_sentences_in_the_readme_were_earned():
    earned = set(saved("sentences")["sentence"])
    quoted = re.findall(r"^> (.+)$", README, flags=re.MULTILINE)
    assert quoted
    assert set(quoted) <= earned


def test_moves_in_the_readme_are_those_of_the_table():
    moves = saved("moves")
    (count,) = re.findall(r"told of (\d+) of (\d+) rows", README)
    assert (int(count[0]), int(count[1])) == (sum(moves["significant"]), len(moves))
    largest = moves.loc[moves["change"].abs().idxmax()]
    values = [f"{largest[name]:.2f}".replace("-", "−") for name in ("change", "low", "high")]
    assert f"{values[0]} [{values[1]}, {values[2]}]" in README
