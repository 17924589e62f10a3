"""Early exits: against skipped layers, tables by hand, and claims of what loses too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.early_exit.analysis import findings
from layerwise.analyses.early_exit.figures import exit_strips
from layerwise.analyses.early_exit.tables import earliest, exits_table, safe_p_values
from layerwise.analyses.shared.lens_names import OF_ENCODER
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import n_encoder_layers
from layerwise.models.organisms.layout import WiredLayout
from layerwise.planning.plan import plan_run
from layerwise.presentation.naming import model_layer_names
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import SmallestEffects, no_loss_p_values
from layerwise.storage.parquet import frame
from layerwise.storage.run_tables import RunTables
from layerwise.sweep import LogLikelihood, Scored, intact, skip_layers, sweep
from layerwise.tasks import build_requests
from tests.analysis import documented_columns, word_task
from tests.cases import data_sets, most_errors
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task

TASK = word_task(4)
MARGIN, LAYOUT = 0.05, WiredLayout()


def exit_records(
    right: np.ndarray, task: str = "t", nats: float = 0.0, **more: object
) -> pd.DataFrame:
    """The records of items by exits (the last of which is the whole model), right or wrong."""
    n_items, n_exits = right.shape
    return frame(
        "early_exit",
        [
            {
                "task": task, "capability": "knowledge", "item": f"{task}/{i}",
                "protocol": "continuation", "lens": "logit", "layer": layer, "token": f"word {i}",
                "rank": int(not right[i, layer]) * 3, "final_rank": int(not right[i, layer]),
                "logprob": -1.0 - nats * (n_exits - 1 - layer), **more,
            }
            for i in range(n_items)
            for layer in range(n_exits)
        ],
    )  # fmt: skip


def exit_table(*exits: pd.DataFrame) -> pd.DataFrame:
    return exits_table(pd.concat(exits), lambda *_: 0.25, 0, SmallestEffects())


def right_until(n_items: int, losses: list[int]) -> np.ndarray:
    """Items by exits, of which the first so many are wrong at each exit."""
    return np.arange(n_items)[:, None] >= np.array(losses)


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5"])
def model(request):
    return tiny_seq2seq("t5") if request.param == "t5" else tiny_model(request.param)


def test_an_exit_is_the_model_with_all_later_layers_skipped(model):
    """Of an encoder-decoder, with all later ones of the stack skipped; plain hooked forwards."""
    found = lw.early_exit(model, TASK, "continuation", progress=False).early_exit
    n_encoder, n_layers = n_encoder_layers(model), model.cfg.n_layers
    assert set(found["lens"]) == ({"logit", "decoder"} if n_encoder else {"logit"})
    for item in TASK.items:
        asked = build_requests(TASK, item, "continuation", original_tokenizer(model))
        gold = next(one.request for one in asked if one.gold)
        assert isinstance(gold, LogLikelihood)
        first = LogLikelihood(gold.context, gold.continuation[:1])
        for row in found.loc[found["item"] == item.id].to_dict("records"):
            end = n_encoder if row["lens"] in OF_ENCODER else n_layers
            later = range(row["layer"] + 1, end)
            change = skip_layers(later) if len(later) else intact()
            ((scored,),) = sweep(model, [change], [first], method="reference").outcomes
            assert isinstance(scored, Scored)
            assert scored.logprob == pytest.approx(row["logprob"], abs=1e-4)
            assert scored.greedy == (row["rank"] == 0)


@pytest.mark.long
def test_the_model_could_stop_after_the_layer_that_writes_the_answer(tmp_path):
    model, task = small_model(LAYOUT), small_task("retrieval", n_items=60)
    found = lw.early_exit(model, task, "continuation", out=tmp_path, progress=False)
    lens = lw.logit_lens(model, task, "continuation", progress=False)
    (first,) = earliest(found.exits())["layer"]
    depths = lens.prediction_depths()
    assert first == depths["layer"].max()
    pd.testing.assert_frame_equal(lw.load(tmp_path)[0].to_pandas(), found.to_pandas())
    columns = documented_columns("early_exit_layers.parquet")
    assert list(found.exits().columns) == columns
    assert list(found.early_exit.columns) == documented_columns("early_exit.parquet")


def test_losses_are_paired_with_the_whole_model():
    table = exit_table(exit_records(right_until(200, [80, 30, 2, 0]), nats=0.25))
    assert table["layer"].tolist() == [0, 1, 2]
    assert table["acc_diff"].tolist() == pytest.approx([0.4, 0.15, 0.01])
    assert table["nats"].tolist() == pytest.approx([0.75, 0.5, 0.25])
    assert table["same"].tolist() == pytest.approx([0.6, 0.85, 0.99])
    assert table["significant"].tolist() == [True, True, False]
    assert table["safe"].tolist() == [False, False, True]
    assert (table["acc_diff_low"] <= table["acc_diff"]).all()
    assert earliest(table)["layer"].tolist() == [2]


def test_no_exit_is_safe_before_a_later_one_is():
    table = exit_table(exit_records(right_until(200, [0, 0, 60, 0, 0])))
    assert table["safe"].tolist() == [False, False, False, True]
    assert safe_p_values(np.array([0.001, 0.3, 0.002]), 2).tolist() == [0.6, 0.6, 0.004]


def test_nothing_is_safe_without_signal_and_sequences_pay_for_each_other():
    whole = right_until(90, [0, 0, 0])
    guesses = np.tile(np.arange(90)[:, None] % 8 == 0, (1, 3))
    alone, both = (
        exit_table(exit_records(whole)),
        exit_table(exit_records(whole), exit_records(guesses, "luck")),
    )
    assert not both.loc[both["task"] == "luck", "safe"].any()
    assert both["p_no_loss_run"].min() == pytest.approx(2 * alone["p_no_loss_run"].min())


@pytest.mark.parametrize("n", [60, 200])
def test_exits_that_lose_what_matters_are_rarely_called_safe(n):
    """Runs of three tasks: from some layer down, exits lose just what matters, others flip."""
    rng, runs, wrong = np.random.default_rng(0), data_sets(1200), 0
    for _ in range(runs):
        false = False
        for at in rng.integers(1, 6, 3):
            flips = rng.uniform(0, 0.06)
            lose = np.where(np.arange(6) <= at, MARGIN + flips, flips)
            drawn = rng.random((n, 6))
            change = (drawn < lose).astype(float) - (drawn > 1 - flips)
            p = no_loss_p_values(change, MARGIN, Clusters.singletons(n))
            false |= bool((safe_p_values(p, 3)[: at + 1] < 0.05).any())
        wrong += false
    assert wrong <= most_errors(runs)


@pytest.mark.long
def test_claims_name_the_first_safe_exit_and_a_last_layer_that_is_needed():
    facts = lw.early_exit(tiny_model("llama"), TASK, "continuation", progress=False).facts
    table = exit_table(
        exit_records(right_until(200, [90, 3, 2, 0])),
        exit_records(right_until(200, [90, 80, 70, 0]), "u"),
    )
    with model_layer_names(facts.model):
        safe, needed = findings(RunTables(facts, {"early_exit_layers": table}))
        assert exit_strips(table).axes
    assert safe.short == (
        "In t, an exit after layer 1 loses less than 5 accuracy points when it chooses."
    )
    assert safe.estimate is not None
    assert safe.estimate.value == pytest.approx(1.5)
    assert "Bonferroni over 2 sequences" in safe.test
    assert needed.short == (
        "In u, stopping one layer early, after 2, already loses accuracy when it chooses."
    )
    silent = RunTables(facts, {"early_exit_layers": table.assign(signal=False, safe=False)})
    assert findings(silent) == []


@pytest.mark.long
def test_a_profile_reads_no_prompt_twice_for_it():
    asked = (small_model(LAYOUT), small_task("knowledge", n_items=20), "continuation")
    found = lw.profile(*asked, pairs=1, also="early-exit", progress=False)
    by_kind = {type(result).__name__: result for result in found.results}
    alone = lw.early_exit(*asked, progress=False)
    pd.testing.assert_frame_equal(by_kind["EarlyExitResult"].to_pandas(), alone.to_pandas())
    work = [one["analysis"] for one in found.results[0].facts.work]
    assert work.count("logit lens") == 1
    plan = plan_run(*asked, analysis="profile", also="early-exit", untimed=True)
    assert not any("Not in this plan" in note for note in plan.notes)


def test_a_plan_costs_what_the_lens_does():
    asked = (small_model(LAYOUT), small_task("knowledge", n_items=20), "continuation")
    (row,) = plan_run(*asked, analysis="early-exit", untimed=True).rows
    (lens,) = plan_run(*asked, analysis="lens", untimed=True).rows
    assert row.cost == lens.cost


def test_too_few_items_are_said_to_be_too_few_and_generate_is_refused():
    found = lw.early_exit(
        small_model(LAYOUT), small_task("knowledge", n_items=20), "continuation", progress=False
    )
    (note,) = found.notes()
    assert note == "No exit of 20 items can be safe: expected 52 items, or a larger smallest_loss."
    with pytest.raises(UserError, match="so ask for that"):
        lw.early_exit(tiny_model("llama"), replace(TASK), "generate", progress=False)


@pytest.mark.long
def test_what_enters_the_decoder_is_not_drawn_behind_an_encoder_layer():
    found = lw.early_exit(tiny_seq2seq("t5"), TASK, "continuation", progress=False)
    exits, n_encoder = found.exits(), found.facts.model.n_encoder_layers
    assert ((exits["layer"] == n_encoder - 1) & (exits["lens"] == "logit")).any()
    (cells,) = [mesh for mesh in found.plot().axes[0].collections if mesh.get_gid() == "cells"]
    assert cells.get_array().size == found.facts.model.n_layers - 1
