"""The smallest effects of interest: kept with a run, used by its tests, told in its sentences."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest

import layerwise as lw
from layerwise.errors import UserError
from layerwise.report import findings
from layerwise.stats.share_tests.equivalence import (
    Interest,
    no_loss_of_nats_p_values,
    score_p_values,
)
from tests.analysis import distinct, solved_by, word_task
from tests.models.tiny import tiny_model


@pytest.fixture(scope="module")
def task():
    return solved_by(tiny_model("llama"), distinct(word_task(60)))


def test_defaults_are_the_same_everywhere():
    usual = Interest()
    for function in (lw.ablate, lw.profile, lw.interactions, lw.emergence, lw.compare):
        for name, value in vars(usual).items():
            parameter = signature(function).parameters.get(f"smallest_{name}")
            assert parameter is None or parameter.default == value
    assert usual.settings() == {}
    assert Interest.of({}) == usual


def test_what_is_asked_for_is_kept_and_tested(task, tmp_path):
    asked = {"smallest_loss": 0.2, "smallest_nats": 0.5}
    result = lw.ablate(
        tiny_model("llama"), task, "continuation", out=tmp_path / "run", progress=False, **asked
    )
    again = lw.load_results(tmp_path / "run")[0]
    settings = again.facts.settings
    assert {name: settings[name] for name in asked} == asked
    assert Interest.of(settings) == Interest(0.2, 0.5)
    effects = again.effects()
    counts = [effects[name].to_numpy(dtype=int) for name in ("n_lost", "n_gained", "n_items")]
    np.testing.assert_allclose(effects["p_no_loss"], score_p_values(*counts, 0.2))
    wide = result.records.pivot(index="item", columns="intervention", values="gold_logprob")
    nats = np.column_stack([wide["intact"] - wide[one] for one in effects["intervention"]])
    np.testing.assert_allclose(effects["p_no_loss_nats"], no_loss_of_nats_p_values(nats, 0.5))
    usual = lw.ablate(tiny_model("llama"), task, "continuation", progress=False)
    assert not set(asked) & set(usual.facts.settings)
    told = [f.full for f in findings([again]) if f.kind == "no loss"]
    assert told
    assert all("20 accuracy points and 0.5 nats, of which" in sentence for sentence in told)


def test_of_joined_runs_the_largest_counts():
    assert Interest.of({"smallest_loss": [0.05, 0.1]}).loss == 0.1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("smallest_loss", 0.0, "The smallest loss of accuracy of interest is 0.0: expected"),
        ("smallest_loss", 1.5, "expected a number above 0 and below 1; leave it out"),
        ("smallest_nats", -1.0, "The smallest loss of log-probability of interest is -1.0"),
        ("smallest_nats", float("nan"), "'smallest_nats' is nan"),
    ],
)
def test_impossible_effects_are_refused(name, value, says):
    with pytest.raises(UserError, match=says):
        lw.ablate(
            tiny_model("llama"), word_task(5), "continuation", progress=False, **{name: value}
        )
