"""Comparing saved runs: what is refused, what is left out and said, and what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import layerwise as lw
from layerwise.analyses.comparison.api import compare, runs_or_groups
from layerwise.analyses.comparison.quantities import COMPARED
from layerwise.analyses.comparison.report import _accuracies, _drawings
from layerwise.errors import UserError
from layerwise.presentation.rows import rows
from tests import synthetic
from tests.commands import run
from tests.comparing import ablation, answers, model, row, save_run, save_single_task_run

KEYS = ("keys", "retrieval", "letter")
SUMS = ("sums", "reasoning", "letter")
FAST = {"n_resamples": 200}


def right(seed: int = 0, hits: dict[int, float] | None = None, n: int = 60) -> np.ndarray:
    base = np.random.default_rng(99).random(n) < 0.9
    return answers(np.random.default_rng(seed), base, {2: 0.9} if hits is None else hits)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two models: the second needs a later layer for ``keys``, and both the same for ``sums``."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for i, layer in enumerate((2, 5)):
        cells = {KEYS: right(i, {layer: 0.95}), SUMS: right(i + 10, {3: 0.9})}
        found.append(save_run(folder / f"run{i}", ablation(f"m{i}", cells)))
    return found


@pytest.fixture(scope="module")
def compare_runs(runs: list[Path]) -> lw.Comparison:
    return compare(runs, **FAST)


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("groups")
    return {
        name: [save_single_task_run(folder, f"{name}{i}", right(i, {layer: 0.9})) for i in range(3)]
        for name, layer in (("small", 1), ("large", 6))
    }


def test_the_planted_difference_alone_is_established(compare_runs: lw.Comparison):
    found = compare_runs.differences
    assert set(found["family"]) == set(COMPARED)
    depth = row(found, measure="half-effect depth", capability="retrieval")
    assert depth["significant"]
    assert depth["difference"] == pytest.approx(3 / 8, abs=0.05)
    assert not found.loc[found["capability"] == "reasoning", "significant"].any()
    assert (found["unit"] == "item").all()


def test_estimates_are_those_of_emergence_on_the_axis_of_the_comparison(runs, compare_runs):
    told = lw.emergence(lw.load(runs[0]), n_resamples=200).emergence
    for _, mine in told.iterrows():
        here = row(compare_runs.estimates, run="run0", measure=mine["measure"],
                   capability=mine["capability"])  # fmt: skip
        shift = 0.0 if mine["measure"] == "critical set" else 0.5
        for name, layers in (("estimate", "layer"), ("low", "layer_low"), ("high", "layer_high")):
            assert here[name] == pytest.approx((mine[layers] + shift) / 8)


def test_layers_take_their_part_of_the_depth(compare_runs: lw.Comparison):
    mine = compare_runs.layers.query("run == 'run0' and task == 'keys'")
    assert mine["start"].tolist() == [i / 8 for i in range(8)]
    assert mine["end"].tolist() == [(i + 1) / 8 for i in range(8)]
    assert mine.loc[mine["significant"], "layer"].tolist() == [2]


def test_a_comparison_is_written_whole_and_read_back(compare_runs: lw.Comparison, tmp_path: Path):
    page = compare_runs.save(tmp_path / "out")
    assert page.read_text().startswith("<!DOCTYPE html>")
    again = lw.Comparison.load(tmp_path / "out")
    for name in compare_runs.tables:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(compare_runs, name))
    assert again.facts == compare_runs.facts
    file = tmp_path / "out" / "comparison.parquet"
    told = json.loads(pq.read_schema(file).metadata[b"layerwise.facts"])
    assert [each["name"] for each in told["runs"]] == ["run0", "run1"]
    assert {p.suffix for p in (tmp_path / "out" / "figures").iterdir()} == {".png", ".svg"}
    (tmp_path / "out" / "comparison.json").write_text("{}")
    with pytest.raises(UserError, match="missing or damaged"):
        lw.Comparison.load(tmp_path / "out")


@pytest.mark.long
def test_groups_have_runs_as_units_and_their_spread(groups: dict[str, list[Path]]):
    found = compare(groups, **FAST)
    assert (found.differences["unit"] == "run").all()
    depth = row(found.differences, measure="half-effect depth")
    assert depth["significant"]
    assert depth["difference"] == pytest.approx(5 / 8, abs=0.05)
    estimates = found.estimates.query("measure == 'half-effect depth'")
    spread = row(found.groups, group="small", measure="half-effect depth")
    mine = estimates.loc[estimates["group"] == "small", "estimate"]
    assert (len(mine), spread["n_runs"]) == (3, 3)
    assert spread["sd"] == pytest.approx(mine.std(ddof=1))
    assert (spread["least"], spread["most"]) == (mine.min(), mine.max())


@pytest.mark.long
def test_where_part_is_common_it_is_compared_and_the_rest_is_said(tmp_path: Path):
    one = save_run(tmp_path / "one", ablation("one", {KEYS: right(0), SUMS: right(1)}))
    two = save_run(tmp_path / "two", ablation("two", {KEYS: right(2), SUMS: right(3, n=50)}))
    more = synthetic.task_facts("sums", "reasoning", n_items=50).model_copy(update={"hash": "x"})
    _with_task(two, more)
    found = compare([one, two], **FAST)
    assert set(found.differences["capability"]) == {"retrieval"}
    told = row(found.left_out, task="sums")
    assert told["reason"].startswith("the items differ: 60 items, 3 few-shot, hash hash of sums")
    three = save_run(tmp_path / "three", ablation("three", {KEYS: right(4)}))
    lacking = row(compare([one, three], **FAST).left_out, task="sums")
    assert lacking["reason"] == "not in three"


def _with_task(folder: Path, task) -> None:
    """Give a saved run other facts about one task."""
    (result,) = lw.load(folder)
    tasks = tuple(task if t.name == task.name else t for t in result.facts.tasks)
    facts = result.facts.model_copy(update={"tasks": tasks})
    shutil.rmtree(folder)
    save_run(folder, lw.AblationResult(result.records, facts))


def test_lenses_are_compared_where_both_were_read(tmp_path: Path):
    rng, folders = np.random.default_rng(0), []
    for name, layer in (("one", 2), ("two", 6)):
        rise = np.where(np.arange(-1, 8) >= layer, -0.2, -6.0) + rng.normal(0, 0.05, (40, 9))
        told = {"model": model(name), "protocols": ("letter",)}
        folders.append(save_run(tmp_path / name, synthetic.lens(rise, "keys", "retrieval", **told)))
    found = compare(folders, **FAST)
    depth = row(found.differences, method="logit lens", measure="half-effect depth")
    assert depth["significant"]
    assert depth["difference"] == pytest.approx(4 / 8, abs=0.05)
    assert set(found.differences["family"]) == {"depth"}
    assert found.layers.empty
    assert set(found.report().figures) == {"depths", "differences_depth"}


def role_panels(comparison: lw.Comparison, protocol: str) -> list[Any]:
    """The panels of the role map under a protocol, one for each run."""
    (drawing,) = (each for each in _drawings(comparison) if each.name == f"roles_{protocol}")
    return [axes for axes in drawing.draw().axes if axes.get_title(loc="left")]


def _guessing_run(folder: Path, protocols: tuple[str, ...]) -> Path:
    """A model that guesses under ``letter``, whose layers are skipped under some protocols."""
    guesses = np.arange(60)[:, None] % 4 == np.zeros(8)
    cells = {("keys", "retrieval", name): guesses for name in ("letter", "continuation")}
    whole = ablation("pruned", cells)
    records = whole.records
    asked = (records["kind"] != "skip") | records["protocol"].isin(protocols)
    return save_run(folder / "pruned", lw.AblationResult(records.loc[asked], whole.facts))


@pytest.mark.parametrize("protocols", [(), ("letter",)])
def test_a_run_without_signal_stands_hatched_beside_the_other(tmp_path: Path, protocols):
    cells = {("keys", "retrieval", name): right(0) for name in ("letter", "continuation")}
    whole = save_run(tmp_path / "whole", ablation("whole", cells))
    found = compare([whole, _guessing_run(tmp_path, protocols)], **FAST)
    accuracy = rows(found.differences, family="accuracy")
    assert accuracy["significant"].all()
    assert accuracy["estimate_second"].tolist() == [0.25, 0.25]
    for protocol in ("letter", "continuation"):
        panels = role_panels(found, protocol)
        hatched = [sum(p.get_hatch() is not None for p in axes.patches) for axes in panels]
        assert hatched == [0, 1]
        edges = [axes.collections[0].get_coordinates()[0, :, 0] for axes in panels]
        assert [len(each) - 1 for each in edges] == [8, 7]
    (shown,) = _accuracies(found)
    known = f"{100 * right(0)[:, 0].mean():.0f}"
    assert (shown.columns, shown.cells) == (
        ("task", "protocol", "whole", "pruned"),
        [["keys", name, known, "25"] for name in ("continuation", "letter")],
    )
    first_screen = found.report().html.split("<nav")[0]
    assert shown.title in first_screen


@pytest.mark.long
def test_protocols_that_not_all_runs_were_asked_are_not_drawn(tmp_path: Path):
    one = save_run(tmp_path / "one", ablation("one", {KEYS: right(0)}))
    two = ablation("two", {KEYS: right(1), ("keys", "retrieval", "generate"): right(2)})
    found = compare([one, save_run(tmp_path / "two", two)], **FAST)
    assert set(found.layers["protocol"]) == {"letter"}
    assert [each.name for each in _drawings(found) if "roles" in each.name] == ["roles_letter"]


def test_layers_that_one_run_did_not_skip_keep_their_place(tmp_path: Path):
    cells = {KEYS: right(0)}
    few = ablation("few", cells)
    kept = few.records.loc[~few.records["layer"].isin([4, 5, 6])]
    runs = [
        save_run(tmp_path / "all", ablation("all", cells)),
        save_run(tmp_path / "few", lw.AblationResult(kept, few.facts)),
    ]
    panels = role_panels(compare(runs, **FAST), "letter")
    values = [axes.collections[0].get_array() for axes in panels]
    assert [int(np.ma.count(each)) for each in values] == [8, 5]


REFUSED = {
    "one": (lambda r, f: [r[0]], "There is nothing to compare with"),
    "none": (lambda r, f: [], "There is nothing to compare with"),
    "twice": (lambda r, f: [r[0], r[0]], "A folder was given twice"),
    "missing": (lambda r, f: [r[0], f / "nowhere"], "No folder"),
    "unfinished": (lambda r, f: [r[0], _without_records(r[1], f)], r"records\.parquet is missing"),
    "same model": (
        lambda r, f: [r[0], save_single_task_run(f, "other", right(5), model=model("m0"))],
        "run0 and other are runs of the same model .m0, hash m00000000000.*layerwise report",
    ),
    "other items": (
        lambda r, f: [
            r[0], save_run(f / "b", ablation("b", {("x", "retrieval", "letter"): right()}))
        ],
        "share no task with the same items .*not in b.*--limit, --seed",
    ),
    "other protocol": (
        lambda r, f: [
            r[0], save_run(f / "b", ablation("b", {("keys", "retrieval", "generate"): right()})),
        ],
        "share items, and yet nothing can be compared .*the same protocols",
    ),
    "chat": (
        lambda r, f: [r[0], save_single_task_run(f, "b", right(), settings={"chat": True})],
        "The protocols differ: prompts stood in a chat template in b and not in run0",
    ),
    "other change": (
        lambda r, f: [r[0], _zero_ablation_run(f)],
        "The metric differs, .*skip layer in run0; zero layer in b.*--kind",
    ),
}  # fmt: skip


def _without_records(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "unfinished")
    (folder / "unfinished" / "records.parquet").unlink()
    return folder / "unfinished"


def _zero_ablation_run(folder: Path) -> Path:
    result = ablation("b", {KEYS: right()})
    records = result.records.assign(kind=result.records["kind"].replace("skip", "zero"))
    records["intervention"] = records["intervention"].str.replace("skip", "zero")
    return save_run(folder / "b", lw.AblationResult(records, result.facts))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_a_sentence(case: str, runs, tmp_path: Path):
    make, says = REFUSED[case]
    with pytest.raises(UserError, match=says):
        compare(make(runs, tmp_path), **FAST)


def test_groups_that_say_nothing_about_an_architecture_are_refused(runs, groups, tmp_path: Path):
    with pytest.raises(UserError, match="'b' has fewer than two runs, and from one training seed"):
        compare({"a": groups["small"], "b": groups["large"][:1]})
    deeper = save_single_task_run(
        tmp_path, "deeper", answers(np.random.default_rng(0), right()[:, 0], {}, 12)
    )
    with pytest.raises(UserError, match=r"'a' holds models of different shape .8 layers"):
        compare({"a": [*groups["small"], deeper], "b": groups["large"]})
    with pytest.raises(UserError, match="5 bootstrap samples are too few"):
        compare(runs, n_resamples=5)


def test_groups_in_words_are_read_and_checked():
    assert runs_or_groups([], ["a=x, y", "b=z"]) == {"a": ["x", "y"], "b": ["z"]}
    assert runs_or_groups([Path("x")], []) == [Path("x")]
    for words in (["a"], ["a="], ["=x,y"], [" =x"], ["a=x", "a=y"]):
        with pytest.raises(UserError, match=r"Cannot read the group .* another name for each"):
            runs_or_groups([], words)
    with pytest.raises(UserError, match="given at once"):
        runs_or_groups([Path("x")], ["a=x"])


@pytest.mark.long
def test_the_command_writes_the_page_and_says_what_is_established(runs, tmp_path: Path):
    done = run("compare", *map(str, runs), "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "differences established" in done.out
    assert "By ablation, retrieval lies" in done.out
    assert "About architectures or ways of training one run says nothing." in done.out
    assert (tmp_path / "out" / "comparison.html").is_file()
