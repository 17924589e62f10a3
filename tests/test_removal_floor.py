"""What removal is measured by: the floor, other questions, and how often a guesser passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import layerwise as lw
from layerwise.analyses.removal.tables import _curve, tasks_that_count
from layerwise.models import original_tokenizer
from layerwise.results import RemovalResult
from layerwise.stats import effects as _effects
from layerwise.storage.parquet import frame
from layerwise.sweep import intact, skip_layers, sweep
from layerwise.tasks import build_requests, score, with_other_questions
from layerwise.tasks.blind import guesses
from tests import synthetic
from tests.analysis import word_task
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model


def rows_of(right: dict[str, np.ndarray], split: str, task: str = "facts") -> list[dict]:
    """Records of one order; ``right`` is by intervention: ``intact``, a control, or a step."""
    found = []
    for name, answers in right.items():
        step = int(name) if name.isdigit() else 0
        kind = name.split(":")[0] if not step else "skip"
        found += [
            {
                "by": "deep", "step": step, "intervention": f"skip:{step}" if step else name,
                "kind": kind, "layers": list(range(step)), "chosen": step > 0, "split": split,
                "task": task, "capability": "knowledge", "item": f"{split}/{i:03d}",
                "protocol": "continuation", "correct": bool(one), "gold_logprob": -1.0,
            }
            for i, one in enumerate(answers)
        ]  # fmt: skip
    return found


def result_of(rows: list[dict], *tasks: str) -> RemovalResult:
    facts = [synthetic.task_facts(name, "knowledge", 0.25) for name in tasks or ("facts",)]
    return RemovalResult(frame("removal", rows), synthetic.facts(*facts))


def test_shares_are_of_the_way_to_the_model_without_layers():
    n = 40
    first = np.arange(n)
    right = {"intact": first < 36, "no layers": first % 10 == 9, "1": first < 20}
    rows = rows_of(right, "selection") + rows_of(right, "held out")
    result = result_of(rows)
    floor = np.mean(right["no layers"])
    expected = (0.9 - 0.5) / (0.9 - floor)
    assert result.steps()["share_lost"].tolist() == pytest.approx([expected] * 2)
    assert result.steps()["floor"].tolist() == pytest.approx([floor] * 2)
    assert result.candidates()["share_lost"].tolist() == pytest.approx([expected])
    assert result.curves()["share_lost"].tolist() == pytest.approx([expected])
    stated = result_of([row for row in rows if row["kind"] != "no layers"])
    assert stated.curves()["share_lost"].tolist() == pytest.approx([0.4 / 0.65])


def test_a_gain_of_many_items_is_no_drop_of_the_mean_over_tasks():
    """Of 200 items a third is gained, of 20 all but two are lost: significant is the gain alone."""
    rows = []
    for task, before, after, n in (("many", 0.6, 0.93, 200), ("few", 1.0, 0.1, 20)):
        right = {"intact": np.arange(n) < before * n, "no layers": np.zeros(n, bool)}
        for split in ("selection", "held out"):
            rows += rows_of(right | {"1": np.arange(n) < after * n}, split, task)
    (step,) = result_of(rows, "many", "few").curves().to_dict("records")
    assert step["share_lost"] == pytest.approx((-0.55 + 0.9) / 2)
    assert step["p_holm"] < 0.05
    assert not step["significant"]


@pytest.mark.parametrize(("few", "accuracy"), [(30, 0.7), (60, 0.6)])
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
    curve = result_of(rows_of(right, "selection") + rows_of(right, "held out")).curves().iloc[0]
    drawn = np.random.default_rng(1).integers(0, 40, (20000, 40))
    full, floor, less = (right[name][drawn].mean(axis=1) for name in ("intact", "no layers", "1"))
    low, high = np.quantile((full - less) / (full - floor), [0.025, 0.975])
    assert (curve["share_low"], curve["share_high"]) == pytest.approx((low, high), abs=0.03)


def test_a_model_that_does_not_read_the_question_gets_an_order_as_rarely_as_stated():
    """Three tasks whose options give 55 % away, where guessing among four gives 25 %."""
    sets, rng, found = data_sets(240), np.random.default_rng(1), 0
    names = ["a", "b", "c"]
    for _ in range(sets):
        rows = []
        for name in names:
            easy = rng.random(40) * 0.9 + 0.1
            asked = ["intact", "blind:1", "blind:2", "blind:3"]
            right = {one: rng.random(40) < easy for one in asked}
            rows += rows_of(right, "selection", name)
        found += bool(tasks_that_count(frame("removal", rows), lambda *_: 0.25))
    assert found <= most_errors(sets, 0.025)


def test_what_is_told_is_corrected_over_all_tasks_that_were_asked():
    first = np.arange(20)
    just = {"intact": first < 10, "no layers": first < 0, "1": first < 0}  # p = 0.014
    sure = {"intact": first < 20, "no layers": first < 0, "1": first < 0}
    both = ("selection", "held out")
    rows = [row for split in both for row in rows_of(sure if split == "selection" else just, split)]
    assert result_of(rows).curves()["tasks"].tolist() == ["facts"]
    others = [row for name in "ab" for split in both
              for row in rows_of(sure if split == "selection" else just, split, name)]  # fmt: skip
    told = result_of(rows + others, "facts", "a", "b")
    assert told.curves().empty
    held = told.steps().query("split == 'held out'")
    assert len(held) == 3
    assert not held["signal"].any()


def test_controls_are_those_of_brute_force_on_both_splits():
    model, task = tiny_model("llama"), word_task(8, chance={"continuation": 0.0})
    result = lw.removal_order(model, task, n_removed=1, by="deep", progress=False)
    seen = result.removal.loc[result.removal["kind"] != "skip"]
    guessed = seen["kind"].str.startswith("guesser")
    found = guesses(task, "continuation", tokenizer=original_tokenizer(model))
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
        assert list(row.layers) == []
        assert row.step == 0
    held = seen.loc[seen["split"] == "held out"]
    assert held.empty == (not result.order)


def test_a_run_asks_other_questions_once_for_each_split(tmp_path):
    model, task = tiny_model("llama"), word_task(8, chance={"continuation": 0.0})
    task = replace(task, name="asked")
    lw.removal_order(model, task, n_removed=1, by=("deep", "effect"), out=tmp_path / "run",
                     progress=False)  # fmt: skip
    lines = (tmp_path / "run" / "requests.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 8 * 3 * (1 + 3)
