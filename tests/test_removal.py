"""Orders of removal against brute force, models whose answer is planted, and rules by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer.main

import layerwise as lw
from layerwise.analyses.registry import run_tables
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.removal.job import Order
from layerwise.analyses.removal.orders import by_angle
from layerwise.analyses.removal.result import prune_command
from layerwise.analyses.removal.tables import WAYS, _curve, best_candidate, tasks_that_count
from layerwise.cli.app import app
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.report import report
from layerwise.report._layers import sections
from layerwise.results import RemovalResult
from layerwise.stats import effects as _effects
from layerwise.storage.parquet import frame
from layerwise.sweep import intact, skip_layers, sweep
from layerwise.sweep.activations.streams import Streams
from layerwise.tasks import build_requests, score, with_other_questions
from layerwise.tasks.blind import guesser_answers
from tests import synthetic
from tests.analysis import decided_by_layers, documented_columns, word_task
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model
from tests.synthetic import facts, task_facts
from tests.test_removal_orders import HELD_OUT, SELECTION, split_items_of

N_LAYERS = 5
N_ITEMS, N_TRIED = 24, 160


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", num_hidden_layers=N_LAYERS)


@pytest.fixture(scope="module")
def task(model):
    return decided_by_layers(model, word_task(N_TRIED), N_ITEMS)


@pytest.fixture(scope="module")
def greedy(model, task):
    return removal_order(model, task, n_removed=3, progress=False)


@pytest.mark.long
def test_held_out_items_are_others_and_drawn_by_the_seed(model, task, greedy):
    seen, held = split_items_of(greedy, SELECTION), split_items_of(greedy, HELD_OUT)
    assert not seen & held
    assert seen | held == {item.id for item in task.items}
    other = removal_order(model, task, n_removed=1, held_out=0.25, seed=1, progress=False)
    assert len(split_items_of(other, HELD_OUT)) == 6
    assert not split_items_of(other, HELD_OUT) <= held
    none = removal_order(model, task, n_removed=1, held_out=0.0, by="deep", progress=False)
    assert split_items_of(none, SELECTION) == seen | held
    assert none.summary_rows()["items"].tolist() == [SELECTION]
    assert not any("held out" in note for note in none.notes())


@pytest.mark.long
def test_candidates_say_what_each_would_have_lost(greedy):
    table = greedy.candidates()
    assert list(table.columns) == documented_columns("removal_candidates.parquet")
    assert table["step"].tolist() == [1] * 5 + [2] * 4 + [3] * 3
    chosen = table.loc[table["chosen"]].reset_index(drop=True)
    steps = greedy.steps()
    steps = steps.loc[steps["split"] == SELECTION].reset_index(drop=True)
    for column in ("share_lost", "nats"):
        np.testing.assert_allclose(chosen[column], steps[column], atol=1e-12)
    assert (table["share_lost"] >= table["step"].map(chosen.set_index("step")["share_lost"])).all()
    assert greedy.signal()["most_taken"].isna().all()  # a chosen layer is no option that is taken


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ((0.1, 5.0, 0), (0.2, 0.0, 9), 0),
        ((0.1, 0.5, 9), (0.1 + 1e-12, 0.2, 0), 0),
        ((0.1, 0.2, 5), (0.1, 0.20001, 7), 7),
        ((0.1, 0.2, 5), (0.1, 0.2002, 7), 5),
        ((0.0, None, 1), (0.0, None, 2), 2),
    ],
)
def test_accuracy_counts_first_then_nats_then_depth(first, second, best):
    table = pd.DataFrame([first, second], columns=["share_lost", "nats", "layer"])
    table["layers"] = [[8, layer] for layer in table["layer"]]
    assert best_candidate(table) == best_candidate(table[::-1]) == (8, best)


@pytest.mark.long
def test_tasks_with_signal_decide_together_with_the_same_weight(model, task):
    small = decided_by_layers(model, word_task(N_TRIED, "small", 3), 16)
    dull = word_task(12, "dull", 5, chance={"continuation": 0.9})
    result = removal_order(model, [task, small, dull], n_removed=2, progress=False)
    signal = result.signal().set_index("task")["signal"]
    assert signal.to_dict() == {"dull": False, "small": True, "words": True}
    assert set(result.steps()["task"]) == {"small", "words"}
    later = result.removal.loc[(result.removal["step"] > 1) | (result.removal["split"] == HELD_OUT)]
    assert set(later["task"]) == {"small", "words"}
    table = result.removal
    first = table.loc[(table["step"] <= 1) & (table["split"] == SELECTION)]
    acc = first.groupby(["intervention", "task"])["correct"].mean().unstack()
    lost = (acc.loc["intact"] - acc) / (acc.loc["intact"] - acc.loc["no layers"])
    expected = lost[["small", "words"]].mean(axis=1).drop(["intact", "no layers"])
    found = result.candidates().query("step == 1").set_index("intervention")["share_lost"]
    np.testing.assert_allclose(found, expected.loc[found.index], atol=1e-12)
    assert set(result.candidates()["n_tasks"]) == {2}


def test_no_order_without_signal(model, tmp_path):
    task = word_task(20, chance={"letter": 0.95})
    result = removal_order(model, task, "letter", n_removed=2, out=tmp_path / "a", progress=False)
    assert result.order == []
    assert len(result.steps()) == len(result.candidates()) == len(result.summary_rows()) == 0
    assert not result.removal["chosen"].any()
    assert set(result.removal["step"]) == {0, 1}
    assert (
        "No order is concluded: on the items to select by, the intact model is not"
        in result._repr_html_()
    )
    split, note, more = result.notes()
    assert split == (
        "Layers are selected by 10 items; the other 10 are held out and measure the loss "
        "(--held-out)."
    )
    assert note.startswith("No signal: words when it picks a letter: right in")
    assert "give more items, or hold out fewer (--held-out 0.2)" in more
    with pytest.raises(UserError, match=r"nothing to draw.*No order is concluded"):
        result.plot()
    (loaded,) = lw.load(tmp_path / "a")
    pd.testing.assert_frame_equal(loaded.removal, result.removal)


def test_work_is_told_by_step_and_in_total(greedy):
    work = greedy.facts.work
    assert [(entry.get("step"), entry["items"]) for entry in work] == [
        (1, SELECTION), (2, SELECTION), (3, SELECTION), (None, HELD_OUT)
    ]  # fmt: skip
    for entry in work:
        assert 0 < entry["token_passes"] < entry["brute_force_token_passes"]
    for key, total in greedy.work.items():
        assert total == pytest.approx(sum(entry[key] for entry in work))


def test_a_step_is_one_sweep(model, task, monkeypatch):
    from layerwise.runs import setup as _setup

    asked, real = [], _setup.sweep
    monkeypatch.setattr(
        _setup, "sweep",
        lambda model, changes, *args, **more: asked.append([change.id for change in changes])
        or real(model, changes, *args, **more),
    )  # fmt: skip
    result = removal_order(model, task, n_removed=2, progress=False)
    first = result.order[0][0]
    pairs = [sorted((first, layer)) for layer in range(N_LAYERS) if layer != first]
    chosen = [skip_layers(layers).id for layers in result.order]
    assert asked == [
        ["intact", *(f"skip:layer={layer}" for layer in range(N_LAYERS)), "no layers"],
        [f"skip:layers={one}+{other}" for one, other in pairs],
        ["intact", *chosen, "no layers"],
    ]


@pytest.mark.parametrize(
    ("held_out", "n", "says"),
    [
        (0.001, 60, "Of task 'words' 0 of 60 items would be held out; expected at"),
        (0.5, 1, "Of task 'words' 0 of 1 item would be held out; expected at"),
        (1.0, 60, "The share of items held out is 1.0; expected 0 .none. or more"),
    ],
)
def test_shares_that_leave_a_split_empty_are_refused(model, held_out, n, says):
    with pytest.raises(UserError, match=says):
        removal_order(model, word_task(n), n_removed=1, held_out=held_out, progress=False)


def order_rows(
    right: dict[str, np.ndarray], split: str, task: str = "facts", by: str = "deep",
    protocol: str = "continuation",
) -> list[dict]:  # fmt: skip
    """Records of one order; ``right`` is by intervention: ``intact``, a control, or a step."""
    return [
        {
            "by": by, "step": step, "intervention": f"skip:{step}" if step else name,
            "kind": "skip" if step else name.split(":")[0], "layers": list(range(step)),
            "chosen": step > 0, "split": split, "task": task, "capability": "knowledge",
            "item": f"{split}/{i:03d}", "protocol": protocol, "correct": bool(correct),
            "gold_logprob": -1.0,
        }
        for name, answers in right.items()
        for step in [int(name) if name.isdigit() else 0]
        for i, correct in enumerate(answers)
    ]  # fmt: skip


def both_splits(right: dict[str, np.ndarray], *of: str, **more: str) -> list[dict]:
    """The same answers on both splits."""
    return [row for split in (SELECTION, HELD_OUT) for row in order_rows(right, split, *of, **more)]


def make_result(rows: list[dict], *tasks: str) -> RemovalResult:
    facts = [synthetic.task_facts(name, "knowledge", 0.25) for name in tasks or ("facts",)]
    return RemovalResult(frame("removal", rows), synthetic.facts(*facts))


def test_shares_are_of_the_way_to_the_model_without_layers():
    first = np.arange(40)
    right = {"intact": first < 36, "no layers": first % 10 == 9, "1": first < 20}
    rows = both_splits(right)
    result = make_result(rows)
    floor = np.mean(right["no layers"])
    expected = (0.9 - 0.5) / (0.9 - floor)
    assert result.steps()["share_lost"].tolist() == pytest.approx([expected] * 2)
    assert result.steps()["floor"].tolist() == pytest.approx([floor] * 2)
    assert result.candidates()["share_lost"].tolist() == pytest.approx([expected])
    assert result.curves()["share_lost"].tolist() == pytest.approx([expected])
    stated = make_result([row for row in rows if row["kind"] != "no layers"])
    assert stated.curves()["share_lost"].tolist() == pytest.approx([0.4 / 0.65])


def test_a_gain_of_many_items_is_no_drop_of_the_mean_over_tasks():
    """Of 200 items a third is gained, of 20 all but two are lost: significant is the gain alone."""
    rows = []
    for task, before, after, n in (("many", 0.6, 0.93, 200), ("few", 1.0, 0.1, 20)):
        item = np.arange(n)
        right = {"intact": item < before * n, "no layers": item < 0, "1": item < after * n}
        rows += both_splits(right, task)
    (step,) = make_result(rows, "many", "few").curves().to_dict("records")
    assert step["share_lost"] == pytest.approx((-0.55 + 0.9) / 2)
    assert step["p_holm"] < 0.05
    assert not step["significant"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("few", "accuracy"), [(30, 0.7), pytest.param(60, 0.6, marks=pytest.mark.long)]
)
def test_what_one_task_loses_and_another_gains_is_a_drop_as_rarely_as_stated(
    few: int, accuracy: float, monkeypatch
):
    """150 items lose a fifth, fewer gain as large a share: pooled it drops, its mean does not."""
    monkeypatch.setattr(_effects, "N_RESAMPLES", 20)
    sets, rng, told = data_sets(200), np.random.default_rng(2), 0
    for _ in range(sets):
        cells = []
        for name, n, right in (("many", 150, 0.95), ("few", few, accuracy)):
            intact, chosen = rng.random(n) < right, rng.random(n)
            gain = 0.2 * right / (1 - right)
            changed = intact & (chosen >= 0.2) if name == "many" else intact | (chosen < gain)
            table = synthetic.cell_records(
                np.column_stack([intact, changed]), name, "knowledge", no_layers=np.zeros(n, bool)
            )
            cells += _effects.cells(table)
        (row,) = _curve(cells, lambda *_: 0.25, 0)
        assert row["n_tasks"] == 2
        told += row["significant"]
    assert told <= most_errors(sets)


def test_the_interval_of_a_share_resamples_the_floor_along():
    rng = np.random.default_rng(0)
    right = {"intact": rng.random(40) < 0.8, "no layers": rng.random(40) < 0.2,
             "1": rng.random(40) < 0.5}  # fmt: skip
    curve = make_result(both_splits(right)).curves().iloc[0]
    drawn = np.random.default_rng(1).integers(0, 40, (20000, 40))
    full, floor, less = (right[name][drawn].mean(axis=1) for name in ("intact", "no layers", "1"))
    low, high = np.quantile((full - less) / (full - floor), [0.025, 0.975])
    assert (curve["share_low"], curve["share_high"]) == pytest.approx((low, high), abs=0.03)


@pytest.mark.long
def test_a_model_that_does_not_read_the_question_gets_an_order_as_rarely_as_stated():
    """Three tasks whose options give 55 % away, where guessing among four gives 25 %."""
    sets, rng, found = data_sets(120), np.random.default_rng(1), 0
    for _ in range(sets):
        rows = []
        for name in "abc":
            easy = rng.random(40) * 0.9 + 0.1
            asked = ("intact", "blind:1", "blind:2", "blind:3")
            rows += order_rows({one: rng.random(40) < easy for one in asked}, SELECTION, name)
        found += bool(tasks_that_count(frame("removal", rows), lambda *_: 0.25))
    assert found <= most_errors(sets, 0.025)


def test_what_is_told_is_corrected_over_all_tasks_that_were_asked():
    first = np.arange(20)
    just = {"intact": first < 10, "no layers": first < 0, "1": first < 0}  # p = 0.014
    sure = just | {"intact": first < 20}
    rows = {task: order_rows(sure, SELECTION, task) + order_rows(just, HELD_OUT, task)
            for task in ("facts", "a", "b")}  # fmt: skip
    assert make_result(rows["facts"]).curves()["tasks"].tolist() == ["facts"]
    told = make_result([row for of_task in rows.values() for row in of_task], *rows)
    assert told.curves().empty
    held = told.steps().query("split == 'held out'")
    assert len(held) == 3
    assert not held["signal"].any()


def test_controls_are_those_of_brute_force_on_both_splits():
    model, task = tiny_model("llama"), word_task(8, chance={"continuation": 0.0})
    result = lw.removal_order(model, task, n_removed=1, by="deep", progress=False)
    seen = result.removal.loc[result.removal["kind"] != "skip"]
    guessed = seen["kind"].str.startswith("guesser")
    found = guesser_answers(task, "continuation", tokenizer=original_tokenizer(model))
    right = dict(zip(seen.loc[guessed, "item"], seen.loc[guessed, "correct"], strict=True))
    assert set(right) == set(seen["item"])
    assert right == {item: found.right[item] for item in right}
    seen = seen.loc[~guessed]
    assert set(seen["kind"]) == {"intact", "blind", "no layers"}
    others = with_other_questions(task, task.items)
    every = skip_layers(range(model.cfg.n_layers))
    for row in seen.itertuples():
        (item,) = (one for one in task.items if one.id == row.item)
        if row.kind == "blind":
            item = others[item.id][int(row.intervention[-1]) - 1]
        change = every if row.kind == "no layers" else intact()
        asked = build_requests(task, item, "continuation", original_tokenizer(model))
        requests = [one.request for one in asked]
        (outcomes,) = sweep(model, [change], requests, method="reference").outcomes
        assert row.correct == score(task, item, "continuation", asked, outcomes).correct
        assert (list(row.layers), row.step) == ([], 0)
    assert seen.loc[seen["split"] == HELD_OUT].empty == (not result.order)


def test_a_run_asks_other_questions_once_for_each_split(tmp_path):
    model, task = tiny_model("llama"), word_task(8, chance={"continuation": 0.0})
    task = replace(task, name="asked")
    lw.removal_order(model, task, n_removed=1, by=("deep", "effect"), out=tmp_path / "run",
                     progress=False)  # fmt: skip
    lines = (tmp_path / "run" / "requests.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 8 * 3 * (1 + 3)


@pytest.fixture(scope="module")
def result_and_measurements(model, task):
    """All orders, and what was measured for them: items of a split, without a set of layers."""
    measured, measure = [], Order._measure

    def watched(self, tasks, split, tried):
        measured.extend((split, frozenset(layers)) for layers in tried)
        return measure(self, tasks, split, tried)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Order, "_measure", watched)
        result = removal_order(model, task, n_removed=3, by=WAYS, progress=False)
    return result, measured


@pytest.fixture(scope="module")
def result(result_and_measurements):
    return result_and_measurements[0]


@pytest.mark.long
def test_orders_that_are_made_together_are_those_made_alone(model, task, greedy, result):
    angular = removal_order(model, task, n_removed=3, by="angular", progress=False)
    for by, alone in (("greedy", greedy), ("angular", angular)):
        assert alone.order == result.orders[by, "continuation"]
        steps = result.steps().query("by == @by").reset_index(drop=True)
        of_run = ["p_run", "run_tests"]
        together, apart = (one.drop(columns=of_run) for one in (steps, alone.steps()))
        pd.testing.assert_frame_equal(together, apart, atol=1e-4)
    with pytest.raises(UserError, match="There are several orders"):
        _ = result.order


def test_no_set_of_layers_is_measured_twice(result_and_measurements):
    result, measured = result_and_measurements
    table = result.removal
    used = set(zip(table["split"], table["layers"].map(frozenset), strict=True))
    assert len(measured) == len(set(measured))
    assert set(measured) == used
    by_order = table.groupby(["by", "split", "step", "intervention"]).ngroups
    assert len(measured) < by_order  # orders share the intact model and the single layers at least
    assert len(result.facts.work) <= len(measured)
    held = table.loc[table["split"] == HELD_OUT]
    assert len({frozenset(group["item"]) for _, group in held.groupby(["by", "step"])}) == 1
    assert held.groupby("by")["step"].unique().map(sorted).tolist() == [[0, 1, 2, 3]] * len(WAYS)


def test_angles_choose_blocks_and_ties_go_deep():
    turns = np.cumsum([0, 0.5, 0.0, 0.0, 0.3])  # layers 1 and 2 do nothing
    last = torch.tensor(np.stack([np.cos(turns), np.sin(turns)], axis=1))[:, None]
    assert by_angle([[Streams(last, torch.zeros(4, 1))]], 3) == [(2,), (1, 2), (1, 2, 3)]


def planted_removal(costs: dict[tuple[str, str], int], n: int = 60) -> RemovalResult:
    """Every step of an order under a protocol costs so many of the items."""
    rows = []
    for (by, protocol), cost in costs.items():
        right = {str(step or "intact"): np.arange(n) >= cost * step for step in range(6)}
        rows += both_splits(right, by=by, protocol=protocol)
    return make_result(rows)


COSTS = {("greedy", "continuation"): 1, ("greedy", "generate"): 3, ("deep", "continuation"): 9}


@pytest.mark.long
def test_curves_and_the_sentence_say_how_many_layers_can_go():
    result = planted_removal(COSTS)
    curves = result.curves()
    assert list(curves.columns) == documented_columns("removal_curves.parquet")
    lost = curves.set_index(["by", "protocol", "step"])["share_lost"]
    assert lost["greedy", "continuation", 5] == pytest.approx(5 / 60 / 0.75)
    assert lost["greedy", "generate", 2] == pytest.approx(6 / 60)
    page = report(result)
    assert list(page.figures) == ["removal_orders"]
    lines = [line for axes in result.plot().axes for line in axes.get_lines()]
    drawn = {str(line.get_gid()): line for line in lines}
    left = [100 - 100 * 9 * k / 60 / 0.75 for k in range(6)]
    np.testing.assert_allclose(drawn["left deep"].get_ydata(), left)
    shown = result.summary_rows()
    assert len(shown) == 3 * 5 * 2  # on the items selected by, and on those held out
    assert not shown.duplicated(["order", "way of scoring", "items", "removed"]).any()
    (claim,) = [claim for claim in page.findings if "greedily" in claim.short]
    assert claim.short.endswith("greedily, knowledge shows a loss from 3 on when it writes.")
    assert claim.evidence == "established"
    assert claim.protocols == ("continuation", "generate")
    assert "No loss up to 5 when it chooses: 11 [" in claim.full
    assert claim.layers == (0, 1, 2)


@pytest.mark.long
def test_notes_name_the_layers_what_was_not_tested_and_the_smallest_loss(result):
    notes = result.notes()
    assert "Removed in this order (deep, chosen when it chooses): 4, 3, 2." in notes
    block = ", ".join(map(str, result.orders["block", "continuation"][-1]))
    assert f"Removed (block, chosen when it chooses): {block}." in notes
    assert notes[0].startswith("Layers are selected by 12 items; the other 12 are held out")
    untested, power = notes[len(WAYS) + 1 : len(WAYS) + 3]
    assert untested.startswith("They may cost more when it picks a letter and when it writes")
    assert "with 12 held-out items" in power
    assert "would be found in 8 of 10 samples" in power
    assert all(len(note.split()) <= 25 for note in notes)
    run = run_tables([result])
    (words,) = (part.words for part in sections(run) if part.anchor == "removal")
    assert all(note in words for note in notes)


def test_the_command_that_writes_the_model_can_be_given():
    run = facts(task_facts("keys", "retrieval", n_items=30))
    words = shlex.split(prune_command((6, 2), ["continuation"], run))
    assert words[:2] == ["layerwise", "prune"]
    group: Any = typer.main.get_command(app)
    given = group.commands["prune"].make_context("prune", words[2:]).params
    assert given["remove"] == "2,6"
    assert given["protocols"] == ["continuation", "letter", "generate"]
    assert given["out"] == "made-up-without-2"
    assert (given["limit"], given["fewshot"]) == (30, run.tasks[0].n_fewshot)
    own = run.model_copy(update={"model": run.model.model_copy(update={"source": "user"})})
    assert prune_command((6, 2), ["continuation"], own) == ""
    (task,) = run.tasks
    made = task.model_copy(update={"source": "built-in"})  # a ``Task`` says so, too
    of_task = run.model_copy(update={"tasks": (made,)})
    assert prune_command((6, 2), ["continuation"], of_task) == ""
    suite = made.model_copy(update={"name": "facts"})
    assert "--task facts" in prune_command((6,), [], run.model_copy(update={"tasks": (suite,)}))
