"""The study of decoders and encoder-decoders: its saved tables hold, and its figure shows them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy.stats import ttest_1samp

from analyses.organism_training.plan import PLANTED
from analyses.organism_training.seq2seq.plan import PLANTED as PLANTED_SEQ2SEQ
from layerwise.analyses.comparison.findings import established
from layerwise.presentation.rows import rows

FOLDER = Path(__file__).parents[2] / "analyses" / "decoder_vs_seq2seq"
PLANS = {"decoder": PLANTED, "seq2seq": PLANTED_SEQ2SEQ}


@pytest.fixture(scope="module")
def depths():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("depths")


def saved(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / "results" / f"{name}.csv")


def test_the_saved_losses_are_at_the_planted_layers_and_no_others():
    layers = rows(saved("layers"), protocol="generate", significant=True)
    found = layers.groupby(["run", "capability"])["layer"].agg(tuple)
    assert len(found) == 6 * 4
    for (run, capability), mine in found.items():
        assert mine == PLANS[run.split("-")[1]][capability]


def test_saved_differences_are_those_of_the_saved_estimates():
    cell = ["capability", "protocol", "method", "measure"]
    every = rows(saved("estimates"), family="depth", axis="computation")
    means = every.groupby(["group", *cell])["estimate"].mean()
    depths = rows(saved("differences"), family="depth", axis="computation", n_items=100)
    assert len(depths) > 10
    for row in depths.to_dict("records"):
        key = [row[name] for name in cell]
        expected = means["seq2seq", *key] - means["decoder", *key]
        assert row["difference"] == pytest.approx(expected, abs=1e-3)


def test_saved_claims_are_those_of_the_saved_differences():
    """The same differences, as surely; words may be others."""
    claims = json.loads((FOLDER / "results" / "claims.json").read_text("utf-8"))
    again = [claim.record() for claim in established(saved("differences"))]
    about = [
        sorted((one["kind"], one["evidence"], one["p"], one["estimate"]["value"]) for one in each)
        for each in (claims, again)
    ]
    assert about[0] == about[1]


def test_the_interval_over_seeds_is_students(depths):
    values = np.array([0.41, 0.44, 0.52])
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert depths.interval_over_seeds(values) == pytest.approx((values.mean(), *expected))


def test_the_figure_is_legible_and_has_every_seed(depths):
    estimates = saved("estimates")
    figure = depths.depths_over_seeds(estimates, 0.625)
    assert_legible(figure)
    drawn = [line.get_xdata() for axes in figure.axes for line in axes.lines
             if line.get_marker() == "|" and len(line.get_xdata())]  # fmt: skip
    shown = rows(estimates, family="depth", axis="computation")
    wanted = [rows(shown, method=method, measure=measure, protocol=protocol)["estimate"]
              for method, measure, protocol in depths.PANELS]  # fmt: skip
    assert sorted(np.concatenate(drawn)) == sorted(np.concatenate(wanted))
