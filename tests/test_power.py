"""Power of items: against enumeration of all outcomes, simulation, and a plan."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multinomial
from statsmodels.stats.contingency_tables import mcnemar

from layerwise.analyses.ablation.api import enough_items
from layerwise.analyses.ablation.claims.roles import claims
from layerwise.planning.plan import plan_run
from layerwise.presentation.power import DetectableEffects, detectable_effects
from layerwise.profiling.api import profile
from layerwise.stats.capability_layers import NEEDED, layer_estimates
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import Pool
from layerwise.stats.signals.power import (
    GAINED,
    HALF,
    answers_needed,
    detectable_loss,
    independent_answers,
    power_of_mcnemar,
    smallest_loss,
)
from layerwise.storage.parquet import frame
from layerwise.storage.run_tables import RunTables
from tests.analysis import word_task
from tests.models.tiny import tiny_model

from . import synthetic


@pytest.mark.parametrize(("n", "level"), [(10, 0.05), (30, 0.05 / 30)])
@pytest.mark.parametrize(("loss", "gained"), [(0.2, 0.05), (0.5, 0.0), (0.0, 0.1), (0.9, 0.05)])
def test_power_is_that_of_all_outcomes_under_the_test_of_statsmodels(n, level, loss, gained):
    total = 0.0
    cells = [gained + loss, gained, 1 - 2 * gained - loss]
    for lost in range(n + 1):
        for got in range(min(lost, n - lost + 1)):  # a loss: more is lost than gained
            p = mcnemar([[0, lost], [got, 0]], exact=True).pvalue
            if p < level:
                total += multinomial.pmf([lost, got, n - lost - got], n, np.clip(cells, 0, 1))
    assert power_of_mcnemar(loss, n, level, gained) == pytest.approx(total, abs=1e-9)


def test_too_few_items_establish_no_loss_and_more_items_smaller_ones():
    losses = [detectable_loss(n, 0.05 / 30) for n in (0, 6, 40, 100, 400)]
    assert losses[:2] == [None, None]
    assert losses[2:] == sorted(losses[2:], reverse=True)


def plan_notes(n_items: int, **options) -> str:
    task = word_task(n_items)
    return " ".join(plan_run(tiny_model("llama"), task, ["letter"], untimed=True, **options).notes)


def test_a_plan_says_what_its_items_will_miss_and_how_many_show_twenty_points():
    n_layers = tiny_model("llama").cfg.n_layers
    loss, enough = smallest_loss(24.0, n_layers, HALF), answers_needed(0.2, n_layers)
    assert loss is not None
    assert loss < (smallest_loss(24.0, n_layers) or 1.0)
    said = f"With 24 items a task, a layer that costs a capability {100 * loss:.0f} points is found"
    more = f"in at least half of the runs. To show 20 points in 8 of 10 runs takes {enough}"
    assert f"{said} {more}." in plan_notes(enough, limit=24)
    assert f"{said} {more}; there are 40." in plan_notes(40, limit=24)
    assert f"takes {enough}" not in plan_notes(enough)
    none = (
        "With 5 items a task, not even a layer that costs a capability all is found in half of the "
        "runs."
    )
    assert none in plan_notes(5)


def test_a_plan_says_how_long_enough_items_take():
    (timed,) = [
        note
        for note in plan_run(tiny_model("llama"), word_task(200), ["letter"], limit=8).notes
        if "half of the runs" in note
    ]
    assert re.search(r" takes \d+, about [\d.]+ s\.$", timed)


@pytest.mark.long
def test_a_profile_asks_as_many_items_as_show_twenty_points():
    model = tiny_model("llama")
    enough = answers_needed(0.2, model.cfg.n_layers)
    task = word_task(enough + 20)
    asked = {"protocols": "letter", "analysis": "profile", "pairs": 1, "untimed": True}
    plan = plan_run(model, task, **asked)
    assert plan.rows == plan_run(model, task, limit=enough, **asked).rows
    assert plan.rows != plan_run(model, task, limit=enough - 1, **asked).rows
    made = profile(model, task, "letter", pairs=1, progress=False)
    assert made.results[0].facts.task(task.name).n_items == enough


def test_two_tasks_of_a_capability_and_more_protocols_need_fewer_items():
    one, other = word_task(4), word_task(4, "other", 1)
    apart = replace(other, capability="retrieval")
    assert enough_items([one, other], 1, 30) < 0.55 * enough_items([one], 1, 30)
    assert enough_items([one], 2, 30) < enough_items([one], 1, 30)
    # The capability with the fewest tasks decides, and there are more tests.
    assert enough_items([one, other, apart], 1, 30) > enough_items([one], 1, 30)


N_TESTS = 120


def drawn_power(n_items: int, n_protocols: int, loss: float, alike: float, sets: int = 1000):
    """Rate at which the capability's own test finds a loss, in made-up answers.

    Answers about an item change alike under its protocols with a correlation of ``alike``.
    """
    rng = np.random.default_rng(0)
    rates, change = [GAINED + loss, GAINED, 1 - 2 * GAINED - loss], np.array([1, -1, 0])
    shape = (n_items, n_protocols, sets)
    common = change[rng.choice(3, size=(n_items, 1, sets), p=rates)]
    own = change[rng.choice(3, size=shape, p=rates)]
    net = np.where(rng.random(shape) < alike**0.5, common, own).reshape(-1, sets)
    n = len(net)
    labels = [str(item) for item in range(n_items) for _ in range(n_protocols)]
    # Each column is a layer of a run of its own: its p-value times all tests is Holm's first step.
    pool = Pool(
        "a", np.arange(sets), net.astype(float), net, np.full(net.shape, np.nan), np.ones(n),
        np.zeros(n), np.full(n, "t"), np.full(n, "letter"), Clusters.from_labels(labels), 1,
    )  # fmt: skip
    needed = layer_estimates([pool], 1, 0.05).query("what == @NEEDED")
    return np.mean(needed["p"] * N_TESTS < 0.05)


@pytest.mark.long(but=["60-1", "120-2"])
@pytest.mark.parametrize(("n_items", "n_protocols"), [(60, 1), (60, 3), (120, 2)])
def test_the_smallest_loss_of_a_capability_is_found_by_its_own_test(n_items, n_protocols):
    answers = independent_answers(n_items, n_items * n_protocols)
    loss = smallest_loss(answers, N_TESTS)
    assert loss is not None
    assert drawn_power(n_items, n_protocols, loss, 0.5) == pytest.approx(0.8, abs=0.05)
    # Less alike, and more is found: of SmolLM2's capabilities most are.
    assert 0.76 < drawn_power(n_items, n_protocols, loss, 0.3) < 0.95
    assert drawn_power(n_items, n_protocols, loss / 2, 0.5) < 0.5


@pytest.mark.parametrize("n_tests", [1, 120])
@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_items_for_a_loss_are_those_that_find_it(loss, n_tests):
    needed = answers_needed(loss, n_tests)
    found = smallest_loss(float(needed), n_tests)
    assert found is not None
    assert found <= loss + 0.001
    fewer = smallest_loss(0.9 * needed, n_tests)
    assert fewer is None or fewer > loss


def made_up_run(n_items=24, n_answers=48, *, signal=(True, True), task=None, **settings):
    """A run with one capability, as far as its items are looked at."""
    row = {
        "what": NEEDED, "kind": "skip", "site": "layer", "layer": 0, "capability": "knowledge",
        "tasks": "facts", "protocols": "letter, generate", "n_items": n_items,
        "n_answers": n_answers, "acc_intact": 1.0, "acc": 1.0, "share": 0.0, "estimate": 0.0,
        "low": 0.0, "high": 0.0, "p": 1.0, "p_table": 1.0, "n_tests": N_TESTS,
        "established": False,
    }  # fmt: skip
    told = task or synthetic.task_facts("facts", "knowledge", n_items=n_items)
    facts = synthetic.facts(told, settings={"analysis": "profile", **settings})
    facts = facts.model_copy(update={"work": ({"seconds": 60.0}, {"forward_seconds": 1.0})})
    asked = pd.DataFrame({"capability": "knowledge", "signal": list(signal)})
    asked["protocol"] = (2 * facts.protocols)[: len(asked)]
    return RunTables(
        facts, {"capability_estimates": frame("capability_estimates", [row]), "signal": asked}
    )


def sure(run: RunTables) -> DetectableEffects:
    found = detectable_effects(run)
    assert found is not None
    return found


def test_how_sure_a_run_is_follows_from_its_items_and_its_own_rate():
    found = sure(made_up_run())
    assert found.items == 24
    assert found.loss == smallest_loss(independent_answers(24, 48), N_TESTS, HALF)
    assert found.half == found.loss / 2
    assert (
        f"With 24 items a task, a layer that costs a capability {100 * found.loss:.0f} points is"
        in found.sentences[0]
    )
    assert found.items_for_half == int(np.ceil(answers_needed(found.half, N_TESTS, HALF) / (4 / 3)))
    assert found.minutes == pytest.approx(found.items_for_half / 24)
    chosen = sure(made_up_run(signal=(True, False)))  # a choice of what has signal
    assert chosen.loss > found.loss


def test_the_command_that_shows_half_repeats_the_run_with_more_items():
    task = synthetic.task_facts("mine", "knowledge", n_items=24).model_copy(
        update={"source": "my files/mine.jsonl", "too_long": ("mine/0007",)}
    )
    found = sure(made_up_run(task=task, seed=3, chat=True))
    n = found.items_for_half
    assert found.command == (
        f"layerwise profile {synthetic.facts().model.name} --task 'my files/mine.jsonl' "
        f"--protocol letter --limit {n} --seed 3 --chat --skip-long "
        f"--out runs/{synthetic.facts().model.name}-{n}"
    )


def test_no_more_items_are_named_than_the_task_has():
    task = synthetic.task_facts("facts", "knowledge", n_items=24)
    few = sure(made_up_run(task=task.model_copy(update={"n_available": 30})))
    assert few.items_for_half == 30
    assert few.loss is not None
    assert few.loss / 2 < few.half == smallest_loss(30 * 4 / 3, N_TESTS, HALF) < few.loss
    assert few.command is not None
    assert "--limit 30 " in few.command
    every = sure(made_up_run(task=task.model_copy(update={"n_available": 24})))
    assert every.items_for_half > 24
    assert every.sentences[-1].endswith("; there are 24.")
    assert every.half == few.loss / 2
    assert every.command is None


def test_items_that_show_nothing_and_settings_that_no_command_repeats_are_told_apart():
    none = sure(made_up_run(n_items=5, n_answers=5))
    assert (none.loss, none.half) == (None, 0.5)
    assert detectable_effects(RunTables(synthetic.facts())) is None
    for settings in ({"analysis": "lens"}, {"analysis": "ablation", "heads": [1]}):
        assert sure(made_up_run(**settings)).command is None


def test_claims_name_the_loss_that_eight_of_ten_runs_find_and_the_page_that_of_half():
    run = made_up_run(n_items=60, n_answers=120)
    (claim,) = [one for one in claims(run) if one.kind == "needed"]
    loss, half = smallest_loss(independent_answers(60, 120), N_TESTS), sure(run).loss
    assert loss is not None
    assert half is not None
    assert half < loss
    assert f"With 60 items a loss of {100 * loss:.0f} points would be found" in claim.full
