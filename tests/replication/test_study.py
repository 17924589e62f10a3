"""The study of published claims: its page and saved verdicts follow from the saved answers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

from layerwise.analyses.replication.api import select_claims
from layerwise.analyses.replication.measurements import judge_results
from layerwise.results import ReplicationResult, load

STUDY = Path(__file__).parents[2] / "analyses" / "published_claims"
RUNS = sorted(path for path in (STUDY / "results").iterdir() if path.is_dir())


@pytest.fixture(scope="module", params=RUNS, ids=lambda path: path.name)
def results(request):
    """The saved results of a run."""
    return load(request.param)


def saved(results) -> ReplicationResult:
    """The saved verdicts."""
    return next(one for one in results if isinstance(one, ReplicationResult))


@pytest.mark.long
def test_saved_verdicts_follow_from_the_saved_answers(results):
    before = saved(results)
    claims = select_claims(list(before.facts.settings["claims"]))
    measured = [one for one in results if not isinstance(one, ReplicationResult)]
    again = judge_results(claims, measured, before.trained_records)
    pd.testing.assert_frame_equal(again.verdicts, before.verdicts)
    pd.testing.assert_frame_equal(again.verdict_numbers, before.verdict_numbers)


def test_the_page_has_the_saved_verdicts(results):
    rows = runpy.run_path(str(STUDY / "run.py"))["verdict_rows"](saved(results).verdicts)
    assert rows in (STUDY / "README.md").read_text("utf-8")


def test_a_share_is_what_pandas_makes_of_the_answers(results):
    """The early layers' share that song-9 stands on, by code that shares nothing."""
    records = next(one for one in results if hasattr(one, "records")).records
    numbers = saved(results).verdict_numbers.query("claim == 'song-9' and label == 'all layers'")
    signal = next(one for one in results if hasattr(one, "signal")).signal().query("signal")
    right = records.assign(right=records["correct"].astype(float))
    lost, above = [], 0.0
    own = saved(results).facts.settings["claims"]["song-9"]
    signal = signal.loc[signal["task"].isin(own)]
    for task, protocol in zip(signal["task"], signal["protocol"], strict=True):
        cell = right.loc[(right["task"] == task) & (right["protocol"] == protocol)]
        intact = cell.loc[cell["kind"] == "intact", "right"]
        floor = cell.loc[cell["kind"] == "no layers", "right"].sum()
        skips = cell.loc[cell["kind"] == "skip"].groupby("layer")["right"].sum()
        if len(skips) < 30 or intact.sum() - floor < 15:
            continue
        lost.append(intact.sum() - skips)
        above += intact.sum() - floor
    by_layer = sum(lost)
    share = 100 * (by_layer.iloc[:10].mean() - by_layer.iloc[-10:].mean()) / above
    assert float(numbers["estimate"].iloc[0]) == pytest.approx(share, abs=1e-9)
