"""Orders of removal against brute force, models whose answer is planted, and rules by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.removal.api import removal_order
from layerwise.analyses.removal.tables import best_candidate
from layerwise.errors import UserError
from layerwise.models import load_model, original_tokenizer
from layerwise.results import RunFolder
from layerwise.sweep import intact, skip_layers, sweep
from layerwise.tasks import build_requests, score
from tests import analysis, commands
from tests.analysis import (
    decided_by_layers,
    documented_columns,
    solved_file,
    word_task,
    write_jsonl,
)
from tests.models.tiny import tiny_folder, tiny_model

N_LAYERS = 5
N_ITEMS, N_TRIED = 24, 160
SELECTION, HELD_OUT = "selection", "held out"


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", num_hidden_layers=N_LAYERS)


@pytest.fixture(scope="module")
def task(model):
    return decided_by_layers(model, word_task(N_TRIED), N_ITEMS)


@pytest.fixture(scope="module")
def greedy(model, task):
    return removal_order(model, task, n_removed=3, progress=False)


def scores(model, task, protocol, items, layers) -> tuple[int, float]:
    """Right answers and the sum of gold log-probabilities without some layers, by brute force."""
    asked = [build_requests(task, item, protocol, original_tokenizer(model)) for item in items]
    change = skip_layers(layers) if layers else intact()
    flat = [one.request for requests in asked for one in requests]
    outcomes = iter(sweep(model, [change], flat, method="reference").outcomes[0])
    found = [
        score(task, item, protocol, requests, [next(outcomes) for _ in requests])
        for item, requests in zip(items, asked, strict=True)
    ]
    return sum(one.correct for one in found), sum(one.gold_logprob or 0.0 for one in found)


def written_by(model, task):
    """The same questions, with what the model writes as the answer."""
    table = lw.ablate(model, task, "generate", layers=[0], progress=False).records
    written = table.loc[table["kind"] == "intact"].set_index("item")["extracted"]
    said = written.where(written.notna() & written.ne(""), "nothing")
    items = [replace(item, aliases=(said[item.id],)) for item in task.items]
    return replace(task, items=tuple(items))


def items_of(result, split, name="words") -> set[str]:
    table = result.removal
    return set(table.loc[(table["split"] == split) & (table["task"] == name), "item"])


# By day each family, way and protocol meets each value of the other two; in long runs all do.
BY_DAY = {
    ("llama", "greedy", "letter"), ("gpt2", "block", "letter"), ("gpt2", "greedy", "continuation"),
    ("llama", "block", "continuation"), ("llama", "greedy", "generate"),
    ("gpt2", "block", "generate"),
}  # fmt: skip
CASES = [
    pytest.param(*case, marks=[] if case in BY_DAY else pytest.mark.long)
    for case in product(
        ("llama", "gpt2"), ("greedy", "block"), ("letter", "continuation", "generate")
    )
]


@pytest.mark.parametrize(("family", "by", "protocol"), CASES)
def test_the_order_is_that_of_brute_force(family, by, protocol):
    layers = {"llama": "num_hidden_layers", "gpt2": "n_layer"}[family]
    model = tiny_model(family, **{layers: N_LAYERS})
    chance = dict.fromkeys(("letter", "continuation", "generate"), 0.0)  # so that it has signal
    task = word_task(N_ITEMS if protocol == "generate" else 10 * N_ITEMS, chance=chance)
    if protocol == "generate":
        task = written_by(model, task)
    else:
        task = decided_by_layers(model, task, 14, protocol)
    result = removal_order(model, task, protocol, n_removed=2, by=by, progress=False)
    seen = [item for item in task.items if item.id in items_of(result, SELECTION)]
    assert scores(model, task, protocol, seen, ())[0] > 0
    removed, order = (), []
    for step in (1, 2):
        tried = (
            [(*removed, layer) for layer in range(N_LAYERS) if layer not in removed]
            if by == "greedy"
            else [tuple(range(i, i + step)) for i in range(N_LAYERS - step + 1)]
        )
        found = {layers: scores(model, task, protocol, seen, layers) for layers in tried}
        right = max(one for one, _ in found.values())
        nats = max(gold for one, gold in found.values() if one == right)
        near = [k for k, (one, gold) in found.items() if one == right and gold > nats - 1e-4]
        removed = max(near, key=lambda layers: layers[-1])
        order.append(removed)
    assert result.order == order


def test_engine_and_reference_find_the_same(model):
    few = decided_by_layers(model, word_task(N_TRIED), 14)
    fast, slow = (
        removal_order(model, few, n_removed=2, method=method, progress=False)
        for method in ("engine", "reference")
    )
    rest = [column for column in fast.removal.columns if column != "gold_logprob"]
    pd.testing.assert_frame_equal(fast.removal[rest], slow.removal[rest])
    gap = (fast.removal["gold_logprob"] - slow.removal["gold_logprob"]).abs()
    assert fast.order
    assert gap.max() < 1e-4


def test_every_layer_that_remains_is_tried_once_at_each_step(greedy, task):
    table = greedy.removal
    assert list(table.columns) == documented_columns("removal.parquet")
    for step, before in enumerate([(), *greedy.order[:-1]], start=1):
        mine = table.loc[(table["step"] == step) & (table["split"] == SELECTION)]
        tried = {tuple(layers) for layers in mine["layers"]}
        assert tried == {(*before, layer) for layer in range(N_LAYERS) if layer not in before}
        assert mine.groupby("intervention")["item"].nunique().eq(12).all()
        assert mine.loc[mine["chosen"], "intervention"].nunique() == 1
    for one, other in pairwise(greedy.order):
        assert other[:-1] == one
    held = table.loc[table["split"] == HELD_OUT]
    shown = [tuple(layers) for layers in held.drop_duplicates("step")["layers"]]
    assert shown == [(), *greedy.order]


def test_held_out_items_are_others_and_drawn_by_the_seed(model, task, greedy):
    seen, held = items_of(greedy, SELECTION), items_of(greedy, HELD_OUT)
    assert not seen & held
    assert seen | held == {item.id for item in task.items}
    again, other = (
        removal_order(model, task, n_removed=1, seed=seed, progress=False) for seed in (0, 1)
    )
    assert items_of(again, HELD_OUT) == held != items_of(other, HELD_OUT)
    quarter = removal_order(model, task, n_removed=1, held_out=0.25, progress=False)
    assert len(items_of(quarter, HELD_OUT)) == 6


def test_steps_are_paired_effects_of_what_was_removed(model, task, greedy):
    steps = greedy.steps()
    assert list(steps.columns) == documented_columns("removal_steps.parquet")
    assert steps["split"].tolist() == [SELECTION] * 3 + [HELD_OUT] * 3
    items_in, intact_scores = {}, {}
    for split in (SELECTION, HELD_OUT):
        ids = items_of(greedy, split)
        items_in[split] = [item for item in task.items if item.id in ids]
        intact_scores[split] = scores(model, task, "continuation", items_in[split], ())
    for row in steps.itertuples():
        items = items_in[row.split]
        right, gold = scores(model, task, "continuation", items, tuple(row.layers))
        intact_right, intact_gold = intact_scores[row.split]
        assert tuple(row.layers) == greedy.order[row.step - 1]
        assert row.n_items == 12
        assert row.acc == pytest.approx(right / 12)
        assert row.acc_diff == pytest.approx((intact_right - right) / 12)
        assert row.nats == pytest.approx((intact_gold - gold) / 12, abs=1e-4)
        assert row.acc_diff_low <= row.acc_diff <= row.acc_diff_high
        assert row.p <= row.p_holm


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


DEAD = (1, 3, 4)


def test_layers_that_were_not_chosen_are_not_taken_for_options(greedy):
    signal = greedy.signal()
    assert signal["most_taken"].isna().all()
    assert not any("It takes" in note for note in greedy.notes())


@pytest.fixture(scope="module")
def with_dead_layers(tmp_path_factory):
    """A model of six layers, three of which add nothing to the residual stream, the last much."""

    def silence(weights):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            for layer in DEAD:
                weights[f"model.layers.{layer}.{name}.weight"].zero_()
            weights[f"model.layers.5.{name}.weight"] *= 10

    root = tmp_path_factory.mktemp("dead")
    folder = analysis.edited_folder(tiny_folder(root, "llama", num_hidden_layers=6), silence)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", str(root / "cache"))
        return load_model(folder)


@pytest.mark.parametrize(
    ("method", "n_items", "n_removed"),
    [("engine", 32, 4), pytest.param("reference", 24, 3, marks=pytest.mark.long)],
)
def test_layers_that_do_nothing_go_first_the_deepest_of_them_before_all(
    with_dead_layers, method, n_items, n_removed
):
    task = decided_by_layers(with_dead_layers, word_task(10 * n_items), n_items)
    result = removal_order(
        with_dead_layers, task, n_removed=n_removed, method=method, progress=False
    )
    assert result.order[:3] == [(4,), (4, 3), (4, 3, 1)]
    steps = result.steps().set_index(["split", "step"])
    for split in (SELECTION, HELD_OUT):
        for step in (1, 2, 3):
            assert steps.loc[(split, step), "acc_diff"] == 0
            assert steps.loc[(split, step), "nats"] == pytest.approx(0, abs=1e-5)
        assert n_removed == 3 or steps.loc[(split, 4), "acc_diff"] > 0


def test_a_block_of_layers_that_do_nothing_is_found(with_dead_layers):
    task = decided_by_layers(with_dead_layers, word_task(320), 32)
    result = removal_order(with_dead_layers, task, n_removed=2, by="block", progress=False)
    assert result.order == [(4,), (3, 4)]


def candidate(name: str, share: float, nats: float | None, *layers: int) -> dict:
    return {"intervention": name, "share_lost": share, "nats": nats, "layers": list(layers)}


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([candidate("a", 0.1, 5.0, 0), candidate("b", 0.2, 0.0, 9)], "a"),
        ([candidate("a", 0.1, 0.5, 9), candidate("b", 0.1 + 1e-12, 0.2, 0)], "b"),
        ([candidate("a", 0.1, 0.2, 5), candidate("b", 0.1, 0.20001, 7)], "b"),
        ([candidate("a", 0.1, 0.2, 5), candidate("b", 0.1, 0.2002, 7)], "a"),
        ([candidate("a", 0.1, -0.2, 7, 3), candidate("b", 0.1, -0.2, 7, 2)], "a"),
        ([candidate("a", 0.0, None, 1), candidate("b", 0.0, None, 2)], "b"),
    ],
)
def test_accuracy_counts_first_then_nats_then_depth(rows, best):
    assert best_candidate(pd.DataFrame(rows)) == best
    assert best_candidate(pd.DataFrame(rows[::-1])) == best


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
    with pytest.raises(UserError, match=r"nothing to draw.*No order is concluded"):
        result.plot()
    (loaded,) = lw.load_results(tmp_path / "a")
    pd.testing.assert_frame_equal(loaded.removal, result.removal)


def test_without_held_out_items_all_are_selected_by(model, task):
    result = removal_order(model, task, n_removed=1, held_out=0.0, progress=False)
    assert set(result.removal["split"]) == {SELECTION}
    assert items_of(result, SELECTION) == {item.id for item in task.items}
    assert result.summary_rows()["held out: accuracy"].tolist() == ["?"]


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


class StopError(Exception):
    """Stands for whatever may end a process."""


@pytest.fixture(scope="module")
def whole_run(model, task, tmp_path_factory):
    """By way: options of a run of three steps, its folder, and what it finds when left alone."""

    @cache
    def of(by):
        options = {"n_removed": 3, "by": by, "progress": False}
        folder = tmp_path_factory.mktemp("removal") / "whole"
        return options, folder, removal_order(model, task, out=folder, **options)

    return of


@pytest.mark.parametrize(
    ("by", "writes"),
    [("greedy", 1), ("greedy", 4), ("greedy", 7), ("block", 0), ("block", 3)],
)
def test_a_run_goes_on_at_the_step_it_was_stopped_in(
    whole_run, model, task, tmp_path, monkeypatch, by, writes
):
    """Two parts for each of three steps and for the held-out items."""
    options, whole_folder, whole = whole_run(by)
    done, real = [], RunFolder.write_part

    def write_part(self, name, table):
        if len(done) == writes:
            raise StopError
        done.append(name)
        real(self, name, table)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_part", write_part)
        with pytest.raises(StopError):
            removal_order(model, task, out=tmp_path / "run", **options)
    assert len(list((tmp_path / "run").glob("parts/*"))) == writes
    from layerwise.runs import setup as _setup

    swept, sweep_again = [], _setup.sweep
    monkeypatch.setattr(_setup, "sweep", lambda *a, **k: swept.append(1) or sweep_again(*a, **k))
    again = removal_order(model, task, out=tmp_path / "run", **options)
    assert len(swept) == 4 - writes // 2
    assert again.order == whole.order
    names = ["removal", "removal_candidates", "removal_curves", "removal_steps"]
    assert sorted(path.stem for path in (tmp_path / "run").glob("*.parquet")) == names
    for name in names:
        one, other = (
            pd.read_parquet(folder / f"{name}.parquet")
            for folder in (tmp_path / "run", whole_folder)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [entry["token_passes"] for entry in facts["work"]] == [
        entry["token_passes"] for entry in whole.facts.work
    ]
    lines = (tmp_path / "run" / "requests.jsonl").read_text().splitlines()
    assert len(lines) == 24 * 3
    (loaded,) = lw.load_results(tmp_path / "run")
    assert loaded.order == whole.order


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The tiny model of ``commands`` has the weights of ``tiny_model``."""
    folder = tmp_path_factory.mktemp("questions")
    solved_file(tiny_model("llama"), folder / "solved.jsonl", 60)
    write_jsonl(folder / "one.jsonl", word_task(1).items)
    return folder


@pytest.fixture
def here(questions, tmp_path, monkeypatch):
    shutil.copytree(questions, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_what_the_function_finds_and_a_report(here):
    base = ["--task", "solved.jsonl", "--fewshot", 0, "--layers", 2, "--by", "block"]
    said = commands.done("remove", commands.model_folder(), *base, "--limit", 60, "--out", "run")
    (result,) = lw.load_results("run")
    assert len(result.order) == 2
    assert len(result.order[1]) == 2
    assert "times fewer token-passes through a layer than one forward per candidate" in said
    assert "Tables: run" in said
    assert result.facts.settings["by"] == ["block"]
    assert items_of(result, HELD_OUT, "solved") | items_of(result, SELECTION, "solved") == {
        f"solved/{i:04d}" for i in range(60)
    }
    said = commands.done("report", "run")
    text = " ".join(said.split())
    assert "the task solved shows a loss from 1 on when it chooses. (established)" in text
    page = (here / "run" / "report.html").read_text()
    assert "Removal of layers</h2>" in page
    assert (here / "run" / "figures" / "removal.png").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--held-out", 0.001], "Of task 'solved' 0 of 60 items would be held out; expected at"),
        (["--task", "one.jsonl"], "Of task 'one' 0 of 1 item would be held out; expected at"),
    ],
)
def test_what_cannot_be_done_is_told_before_work_begins(here, options, says):
    given = {"--task": "solved.jsonl", "--layers": 1} | dict([options])
    words = [word for pair in given.items() for word in pair]
    command = ["remove", commands.model_folder(), *words, "--fewshot", 0, "--out", "run"]
    commands.refused(*command, says=says, unchanged=here)
