"""Checkpoints of one model, profiled and joined: planted courses, resumption, folders, mistakes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.stats.multitest import multipletests

import layerwise as lw
from layerwise.analyses.training import api
from layerwise.analyses.training.api import read_checkpoints
from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model
from layerwise.models.organisms.layout import WiredLayout
from layerwise.presentation.rows import rows
from layerwise.stats.share_tests.equivalence import SmallestEffects
from tests import comparing
from tests.analysis import documented_columns
from tests.commands import run, run_cleanly
from tests.planted import PlantedTruth, small_model, small_task

STEPS = (0, 30, 40)
PLAIN = WiredLayout()
PLANTED = PlantedTruth(PLAIN, "retrieval")
ASKED: dict[str, Any] = {"protocols": ["generate"], "progress": False}
WEIGHTS = Path(str(resources.files("layerwise.models.organisms"))) / "weights"


def checkpoint(step: int) -> Model:
    """The wired model; one mechanism's layer does nothing yet before step 30."""
    model = copy.deepcopy(small_model(PLAIN))
    with torch.no_grad():
        if step < 30:
            block = model.blocks[PLAIN.look_up.layer]
            block.attn.W_O.mul_(0.0)
        model.W_E[0, 0] += step * 1e-6  # no two checkpoints are the same
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("series")


@pytest.fixture(scope="module")
def series(folder: Path) -> lw.TrainingSeries:
    functions = {step: lambda step=step: checkpoint(step) for step in STEPS}
    return lw.profile_training(functions, small_task("retrieval"), also="lens", out=folder, **ASKED)


def test_the_step_of_a_link_is_in_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for step, other in ((100, 7), (200, 3)):
        (tmp_path / f"elsewhere-{other}").mkdir()
        (tmp_path / f"checkpoint-{step}").symlink_to(f"elsewhere-{other}")
    given = [tmp_path / "checkpoint-200", f"{tmp_path}/checkpoint-100/"]
    assert [*dict(read_checkpoints("checkpoints", given))] == [100, 200]
    monkeypatch.chdir(tmp_path / "elsewhere-7")
    assert [*dict(read_checkpoints("checkpoints", [".", "../elsewhere-3"]))] == [3, 7]


@pytest.mark.long
def test_the_onset_and_the_layers_are_those_that_were_planted(series: lw.TrainingSeries):
    (row,) = series.onsets.to_dict("records")
    assert (row["onset"], row["low"], row["high"]) == (30, 30, 30)
    assert row["layers_step"] == 30
    assert set(row["layers_first"]) == set(row["layers_last"]) == PLANTED.critical("layer")
    assert series.moves.empty  # two checkpoints with signal are too few to tell
    onset, first_layers = series.findings()
    assert (onset.kind, first_layers.kind) == ("onset", "first layers")
    assert onset.estimate is not None
    assert onset.estimate[:3] == (30, 30, 30)
    assert set(first_layers.layers) == PLANTED.critical("layer")
    page = series.report()
    for claim in (onset, first_layers):
        table = getattr(series, claim.source["table"].removeprefix("training_"))
        assert len(rows(table, **claim.source["where"])) == 1
        assert claim.full in page.html.replace("&#39;", "'")
    assert [*page.figures] == ["training_generate"]


def test_accuracies_controls_and_tests_are_those_of_the_runs(series, folder):
    saved: Any = [lw.load(folder / f"step-{step}")[0] for step in STEPS]
    signal: Any = pd.concat([one.signal() for one in saved], ignore_index=True)
    for name in ("accuracy", "low", "high", "blind", "no_layers", "p"):
        pd.testing.assert_series_equal(series.accuracy[name], signal[name])
    corrected: Any = multipletests(signal["p"], method="holm")[1]
    np.testing.assert_allclose(series.accuracy["p_series"], corrected)
    effects: Any = pd.concat([one.effects() for one in saved], ignore_index=True)
    pd.testing.assert_series_equal(series.layers["share_lost"], effects["share_lost"])
    # Layers were skipped at the steps with signal alone, and those of the others count as well.
    unasked = np.ones((len(signal) - 2) * effects["layer"].nunique())
    corrected = multipletests([*effects["p"], *unasked], method="holm")[1]
    np.testing.assert_allclose(series.layers["p_series"], corrected[: len(effects)])
    sentence = next(one.full for one in series.findings() if one.kind == "first layers")
    assert f"over all {len(corrected)} tests of the series" in sentence
    assert set(series.depths["method"]) == {"ablation", "logit lens"}
    assert set(series.depths["step"]) == {30, 40}


@pytest.mark.long
def test_a_series_is_saved_loaded_and_verified(series, folder):
    loaded = lw.TrainingSeries.load(folder)
    for name in series.tables:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(series, name))
        expected = documented_columns(f"training_{name}.parquet")
        assert not expected or list(getattr(loaded, name).columns) == expected
    assert loaded.facts == series.facts
    assert lw.verify(folder).ok
    again = lw.compare_series([folder / f"step-{step}" for step in reversed(STEPS)])
    for name in series.tables:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(series, name))


@pytest.mark.long
def test_a_killed_series_goes_on_and_asks_nothing_twice(series, folder, tmp_path, monkeypatch):
    asked: list[int] = []
    measured = api.measure_checkpoint

    def killed(model: Any, *rest: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(1)
        return measured(model, *rest)

    def functions() -> dict[int, Callable[[], Model]]:
        return {step: lambda step=step: checkpoint(step) for step in STEPS}

    monkeypatch.setattr(api, "measure_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        lw.profile_training(
            functions(), small_task("retrieval"), also="lens", out=tmp_path, **ASKED
        )
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("step-*/records.parquet")}
    assert len(kept) == 2
    found = lw.profile_training(
        functions(), small_task("retrieval"), also="lens", out=tmp_path, **ASKED
    )
    assert lw.verify(tmp_path).ok
    for name in found.tables:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(series, name))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def made_up_checkpoints(
    accuracies: np.ndarray, places: np.ndarray, n: int = 60, seed: int = 0
) -> dict[int, list[Any]]:
    """Ablations of checkpoints of one model of six layers, one of which is needed at each step."""
    rng, results = np.random.default_rng(seed), {}
    base = np.arange(n)
    for step, (accuracy, place) in enumerate(zip(accuracies, places, strict=True)):
        right = comparing.answers(
            rng, base < round(accuracy * n), {int(place): 0.9}, 6, 0.05, float(accuracy)
        )
        key = ("keys", "retrieval", "letter")
        results[step] = [comparing.ablation(f"{step}", {key: right})]
    return results


def join_series(results: dict[int, list[Any]], **smallest: float) -> lw.TrainingSeries:
    """As ``compare_series`` joins saved runs."""
    return api._series(results, 0, 0.2, SmallestEffects(**smallest))


def test_checkpoints_come_one_by_one(monkeypatch):
    events: list[str] = []

    def one_by_one() -> Iterator[tuple[int, Model]]:
        for step in (30, 0):
            events.append(f"load {step}")
            yield step, small_model(PLAIN)

    results = iter(made_up_checkpoints(np.full(2, 0.9), np.full(2, 1)).values())
    monkeypatch.setattr(
        api, "measure_checkpoint", lambda *_: events.append("measure") or next(results)
    )
    found = lw.profile_training(one_by_one(), small_task("retrieval"), **ASKED)
    assert events == ["load 30", "measure", "load 0", "measure"]
    assert found.facts.steps == (0, 30)


@pytest.mark.long
def test_a_place_that_moves_is_told_and_one_that_stays_is_not():
    accuracies = np.array([0.25] + [0.95] * 6)
    moved = made_up_checkpoints(accuracies, np.array([1] * 4 + [4] * 3))
    found = join_series(moved)
    (row,) = found.moves.to_dict("records")
    assert row["significant"]
    assert row["change"] == pytest.approx(3, abs=0.5)
    assert (row["first_step"], row["last_step"], row["n_steps"]) == (1, 6, 6)
    (claim,) = [claim for claim in found.findings() if claim.kind == "moves"]
    assert "layers deeper late in training" in claim.short
    assert claim.p == row["p_holm"]
    (row,) = join_series(made_up_checkpoints(accuracies, np.full(7, 2))).moves.to_dict("records")
    assert not row["significant"]
    assert row["low"] < 0 < row["high"]
    few = {step: moved[step] for step in (3, 4, 5, 6)}
    (row,) = join_series(few, depth=5.0).moves.to_dict("records")
    assert row["p_holm"] < 0.05
    assert not row["significant"]  # less than is of interest


@pytest.mark.long
@pytest.mark.parametrize(
    ("accuracy", "noise", "n_steps"), [(0.8, 0.3, 5), pytest.param(0.35, 1.0, 12, id="weak")]
)
def test_layers_that_do_nothing_are_rarely_said_to_be_needed_first(accuracy, noise, n_steps):
    """Answers are drawn anew under every change; the model knows most of them, or hardly any."""
    told, key = 0, ("keys", "retrieval", "letter")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        right = [comparing.answers(rng, np.arange(80) < 80 * accuracy, {}, 6, noise, accuracy)
                 for _ in range(n_steps)]  # fmt: skip
        series = join_series({
            step: [comparing.ablation(f"{100 + step}", {key: of_step})]
            for step, of_step in enumerate(right)
        })  # fmt: skip
        told += bool(series.layers["significant"].any())  # of which the first are told
    assert told / 60 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)


def organism(name: str, step: int) -> str:
    return f"{step}={WEIGHTS / name}"


@pytest.mark.long
def test_the_commands_profile_checkpoints_and_join_their_runs(tmp_path):
    checkpoints = [organism("organism-decoder", 100), organism("organism-decoder-1", 200)]
    asked = ["--task", "organism-facts", "--protocol", "continuation", "--limit", "24"]
    said = run_cleanly("profile-training", *checkpoints, *asked, "--out", tmp_path)
    assert "there at the first checkpoint, step 100," in said
    assert "is first known to need layer 0 at step 100 when it chooses" in said
    assert "At step 200 it is known to need the same." in (tmp_path / "training.html").read_text()
    assert f"Series: {tmp_path / 'training.html'}" in said
    runs = [tmp_path / "step-100", tmp_path / "step-200"]
    joined = run_cleanly("compare", "--series", *runs, "--out", tmp_path / "joined")
    assert joined.splitlines()[:3] == said.splitlines()[1:4]
    assert "is as it was written" in run_cleanly("verify", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["profile-training", "final"], "Cannot tell of which step 'final' is"),
        (["profile-training", "checkpoint-5"], "A series of 1 checkpoint is none"),
        (["profile-training", "5=a", "checkpoint-5"], "Two checkpoints are of step 5"),
        (["profile-training", "5=a", "6=b", "--smallest-gain", "2"], "The smallest gain is 2.0"),
        (["profile-training", "5=a", "6=b", "--also", "heads"], "heads"),
        (["compare", "--series", "a", "b"], "Cannot tell of which step 'a' is"),
        (["compare", "--series", "--group", "x=1,2"], "Groups were given of a series"),
    ],
)
def test_what_is_no_series_is_refused_in_a_sentence(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_function_that_gives_no_model_is_refused():
    with pytest.raises(UserError, match="checkpoint of step 1 gave None: expected a loaded model"):
        lw.profile_training({1: lambda: None, 2: lambda: None}, "organism-facts", progress=False)


def test_options_of_loading_reach_each_checkpoint(monkeypatch):
    asked: list[dict[str, Any]] = []

    def load(name: str, **how: Any) -> Any:
        asked.append({"name": name, **how})
        raise UserError("that is enough")

    monkeypatch.setattr("layerwise.analyses.training.api.load_model", load)
    how = {"backend": "hugging-face", "offload": "disk", "dtype": "bfloat16", "device": "cpu"}
    with pytest.raises(UserError, match="that is enough"):
        lw.profile_training({1: "a", 2: "b"}, progress=False, **how)
    assert asked == [{"name": "a", **how}]


def test_two_checkpoints_of_the_same_weights_are_refused_before_the_others_are_run():
    model = lw.load_model("organism-decoder")

    def third() -> Any:
        pytest.fail("the third checkpoint was loaded")

    with pytest.raises(UserError, match="step 1 and step 2 are runs of the same model"):
        lw.profile_training(
            {1: model, 2: model, 3: third}, "organism-facts", "continuation", limit=2,
            progress=False,
        )  # fmt: skip


def test_runs_that_are_no_checkpoints_of_one_model_are_refused():
    keys, facts = ("keys", "retrieval", "letter"), ("facts", "knowledge", "letter")
    right = np.ones((20, 7), dtype=bool)
    cells = [{keys: right}, {keys: right}, {keys: np.ones((20, 9), dtype=bool)}, {facts: right},
             {keys: right, facts: right}]  # fmt: skip
    runs = {step: [comparing.ablation(f"{step}", of)] for step, of in enumerate(cells)}
    runs[5] = runs[0]
    for other, message in (
        (2, r"not checkpoints of one model \(6 layers"),
        (5, "runs of the same model"),
        (3, "share no task"),
        (4, "Task 'facts' does not have the same items at every step"),
    ):
        with pytest.raises(UserError, match=message):
            join_series({0: runs[0], other: runs[other]})
    with pytest.raises(UserError, match=r"pairs"):
        lw.profile_training([1, 2])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="a folder, a loaded model, or a function"):
        lw.profile_training({1: 2.5, 2: 3})  # pyright: ignore[reportArgumentType]
    series = join_series({0: runs[0], 1: runs[1]})
    assert all(series.onsets["appears"])
    with pytest.raises(UserError, match="has no protocol 'generate'"):
        series.plot("generate")
