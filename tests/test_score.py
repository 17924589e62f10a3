"""The score of the intact model alone, and what is said where it shows no signal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import layerwise as lw
from layerwise.analyses.ablation.claims.findings import silent
from layerwise.analyses.registry import run_tables
from layerwise.models import original_tokenizer
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.presentation.no_signal import option_preference, remedies, sentences
from layerwise.stats.effects import BASELINES, CONTROLS, INTACT, NO_LAYERS
from layerwise.stats.signals.power import items_for_signal
from layerwise.stats.signals.signal import LEVEL
from tests.analysis import decided_by_layers, word_task, write_jsonl
from tests.commands import model_folder, run_cleanly
from tests.hooked import HookedTransformer
from tests.models.tiny import tiny_model
from tests.synthetic import ablation, cell_records, facts, small_ablation, task_facts

TASK = word_task(6)


def signal_row(**values: object) -> dict:
    row = {
        "task": "sums", "capability": "reasoning", "protocol": "letter", "n_items": 40,
        "n_clusters": 40, "chance": 0.25, "accuracy": 0.35, "low": 0.2, "high": 0.5,
        "signal": False, "blind": 0.25, "no_layers": None, "p": 0.1, "most_taken": 1,
        "n_most_taken": 37, "guesser": 0.2, "guesser_rule": "saying 'a'", "guesser_held": False,
    }  # fmt: skip
    return row | values


def remedy_text(row: dict, *others: dict, **changes: object) -> str:
    run = facts(task_facts("sums", "reasoning"), **changes)
    return " ".join(remedies(row, pd.DataFrame([row, *others]), run))


def test_a_score_is_an_ablation_without_changes():
    model = tiny_model("llama")
    found = lw.score(model, TASK, progress=False)
    swept = lw.ablate(model, TASK, layers=[1], progress=False)
    kept = swept.records.loc[swept.records["kind"].isin((*BASELINES, *CONTROLS))]
    key = ["intervention", "protocol", "item"]
    exact = ["correct", "chosen", "generated"]
    pd.testing.assert_frame_equal(
        found.records.set_index(key)[exact].sort_index(), kept.set_index(key)[exact].sort_index()
    )
    assert {INTACT, NO_LAYERS} <= set(found.records["kind"])
    assert found.effects().empty
    names = ["accuracy", "low", "high", "chance", "blind", "no_layers", "signal"]
    pd.testing.assert_frame_equal(found.signal()[names], swept.signal()[names])


@pytest.mark.hooked_transformer
def test_a_model_of_ones_own_is_scored_as_the_same_loaded_from_files():
    loaded = tiny_model("llama")
    with silence_deprecation("HookedTransformer"):
        own = HookedTransformer(loaded.cfg, move_to_device=False).eval()
    own.tokenizer = original_tokenizer(loaded)  # TransformerLens's copy begins with a BOS token
    own.load_state_dict(loaded.state_dict())
    scores = [lw.score(model, TASK, progress=False) for model in (loaded, own)]
    assert (scores[1].facts.model.source, scores[1].facts.model.parity) == ("user", None)
    pd.testing.assert_frame_equal(*(score.signal() for score in scores))


@pytest.mark.long
def test_the_command_prints_controls_and_what_to_try_in_80_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("layerwise.cli.printing.WIDE", 80)
    write_jsonl(tmp_path / "words.jsonl", TASK.items)
    printed = run_cleanly("score", model_folder(), "--task", tmp_path / "words.jsonl")
    body = printed.partition("Percent of items")[2]
    assert max(map(len, body.splitlines())) <= 80
    for word in ("picks a letter", "chooses", "writes", "chance", "blind", "takes"):
        assert word in body
    assert body.count("No signal: words when it") == 3
    assert body.count("Ask at least 7 items: of 6, even all right would be no signal.") == 3
    assert "Try" not in body


def test_a_model_that_can_do_a_task_has_signal_and_nothing_to_try():
    model = tiny_model("llama")
    task = decided_by_layers(model, word_task(150), 30)
    found = lw.score(model, task, "continuation", progress=False)
    assert found.signal()["signal"].all()
    assert found.notes() == []


def test_what_helped_elsewhere_is_tried_first():
    heard = signal_row(protocol="generate", signal=True)
    assert "There is signal when it writes: use --protocol generate." in remedy_text(
        signal_row(), heard
    )
    alone = remedy_text(signal_row())
    assert "Try --protocol continuation or --protocol generate." in alone


def test_more_items_are_tried_only_if_the_model_is_above_its_controls():
    assert "Try more items: at this accuracy about" in remedy_text(signal_row())
    assert "More items alone will not help" in remedy_text(signal_row(blind=0.35))
    away = remedy_text(signal_row(guesser=0.9, guesser_held=True))
    assert "these give the answer away without the question" in away
    assert "more items" not in away.lower()


@pytest.mark.parametrize(
    ("row", "fewest"),
    [
        ({"n_items": 2}, 3),  # 0.25**3 < 0.025
        ({"n_items": 5, "no_layers": 0.0}, 6),  # 0.5**6 < 0.025
        ({"n_items": 9, "chance": 0.7}, 11),
    ],
)
def test_of_too_few_items_more_are_asked_for_and_nothing_else(row, fewest):
    few = signal_row(**row)
    asked = f"Ask at least {fewest} items: of {row['n_items']}, even all right would be no signal."
    assert remedy_text(few) == asked
    larger = signal_row(protocol="continuation")  # it may pass first, so that it does not count
    assert remedy_text(few, larger) == asked
    heard = signal_row(protocol="generate", signal=True)
    assert (
        remedy_text(few, heard)
        == f"There is signal when it writes: use --protocol generate. {asked}"
    )
    assert "Ask" not in remedy_text(signal_row(**row | {"n_items": fewest}))


def test_a_control_that_was_not_measured_takes_no_items():
    assert "Ask" not in remedy_text(signal_row(n_items=4))
    assert "Ask" not in remedy_text(signal_row(n_items=4, chance=1.0, accuracy=1.0))


def test_a_chat_template_is_tried_on_instruct_models_that_were_asked_without():
    model = facts().model.model_copy(update={"gguf": "SmolLM2-135M-Instruct-Q4_1"})
    assert "Try --chat" not in remedy_text(signal_row())
    assert "Try --chat: this is an instruct model." in remedy_text(signal_row(), model=model)
    assert "Try --chat" not in remedy_text(signal_row(), model=model, settings={"chat": True})


def test_an_option_that_is_always_taken_is_named():
    assert option_preference(signal_row()) == "It takes B in 92 % of items."
    assert option_preference(signal_row(protocol="continuation", most_taken=0)).startswith(
        "It takes option 1"
    )
    assert option_preference(signal_row(n_most_taken=20)) == ""
    assert option_preference(signal_row(most_taken=None)) == ""
    assert option_preference(signal_row(protocol="generate")) == ""


@pytest.mark.parametrize(("accuracy", "chance"), [(0.5, 0.25), (0.35, 0.25), (0.9, 0.5)])
def test_so_many_items_show_signal_in_8_of_10_samples(accuracy, chance):
    n = items_for_signal(accuracy, chance, [], 3)
    assert n is not None
    fewest = binom.isf(LEVEL / 3, n, chance) + 1
    assert 0.72 <= binom.sf(fewest - 1, n, accuracy) <= 0.9
    assert items_for_signal(accuracy, chance, [chance], 3) > n
    assert items_for_signal(chance, chance, [], 3) is None
    assert items_for_signal(accuracy, chance, [accuracy], 3) is None
    assert items_for_signal(1.0, 0.0, [0.0], 1) == 6  # 1 / 2**5 is above the level
    assert items_for_signal(0.5, 0.25, [0.3], 400) % 10 == 0


def test_a_claim_says_how_often_the_model_is_right_and_what_chance_is():
    (claim,) = silent(run_tables([small_ablation()]))
    assert claim.short.startswith("Nothing is said of what layers cost for sums when it")
    assert "% by chance" in claim.short
    assert len(claim.short.split()) <= 25
    assert any("Try" in sentence for sentence in claim.details)


def test_many_tasks_without_signal_are_named_up_to_a_few():
    right = np.random.default_rng(0).random((20, 3)) < 0.2
    result = ablation(*(cell_records(right, f"task-{i}", "reasoning") for i in range(7)))
    claims = silent(run_tables([result]))
    assert [claim.tasks for claim in claims[:-1]] == [(f"task-{i}",) for i in range(4)]
    assert claims[-1].short == (
        "Nor is anything said of what layers cost for 3 further task-protocol pairs."
    )
    assert claims[-1].tasks == ("task-4", "task-5", "task-6")
    told = sentences(result.signal(), result.facts)
    assert len(told) == 5
    assert told[-1] == "Nor is there signal in 3 more."


def test_methods_with_a_gate_of_their_own_say_what_it_saw():
    model = tiny_model("llama")
    for result in (
        lw.logit_lens(model, TASK, "continuation", progress=False),
        lw.attribution(model, TASK, "continuation", progress=False),
    ):
        note, last = result.notes()
        assert note.startswith("No signal: words when it chooses: the right token is on top in")
        assert "without the question" in note
        assert len(note.split()) <= 32
        assert last == "layerwise score says what to try."
    texts = lw.logit_lens(model, TASK, "continuation", over="continuation", progress=False)
    assert texts.notes() == []  # no answer is asked for


def test_interactions_without_signal_say_what_to_try():
    found = lw.interactions(tiny_model("llama"), TASK, "letter", progress=False)
    (note,) = found.notes()
    assert note.startswith("No signal: words when it picks a letter: right in")
    assert "Try --fewshot 5" in note
