"""Saved files replace only what layerwise itself wrote of the same kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import save_file

from layerwise.analyses.comparison.report import Comparison
from layerwise.analyses.shared.translators import TunedLens
from layerwise.errors import UserError
from layerwise.presentation.claim import Claim, Evidence, save_claims, source
from layerwise.presentation.save import refuse_foreign_picture, save_figure
from layerwise.prompts.drawing import Panel
from layerwise.prompts.grid import Grid
from layerwise.report import Report
from layerwise.storage.file_list import file_hashes
from layerwise.storage.parquet import frame, is_table
from layerwise.storage.places import PAGE_MARK
from layerwise.storage.provenance import read_facts, write_run_file
from layerwise.storage.written import written_files
from tests import commands
from tests.cases import few_by_day
from tests.synthetic import small_ablation

Write = Callable[[Path], object]


def grid(value: float = 0.5) -> Grid:
    cell = {"panel": 0, "row": 0, "column": 0, "value": value, "text": "a", "details": "b"}
    return Grid("a grid", pd.DataFrame([cell]), (Panel("", ("0",), ("a",)),), "share")


def lens(bias: float = 0.0) -> TunedLens:
    return TunedLens(None, torch.full((2, 3), bias), {"model": "made-up"})


def page() -> Report:
    return Report((), lambda: (PAGE_MARK, {}))


def figures(path: Path) -> None:
    save_figure(Figure(figsize=(1, 1)), path.parent, path.stem)


def claims(path: Path) -> None:
    claim = Claim(
        kind="role", short="short", evidence=Evidence.ESTABLISHED, source=source("effects", {})
    )
    save_claims([claim], path.parent)


def write_comparison(path: Path) -> None:
    tables = {name: frame(f"comparison_{name}", []) for name in Comparison.tables}
    facts: Any = Comparison.home.facts(seed=0, n_resamples=100, runs=())
    Comparison.home.write(path.parent, tables, facts)


def results(path: Path) -> None:
    small_ablation().save(path.parent)


# Every door through which something is written under a name, and such a name.
DOORS: dict[str, tuple[str, Write]] = {
    **{f"grid {end}": (f"look{end}", lambda path: grid().save(path))
       for end in (".csv", ".parquet", ".html", ".png", ".svg", ".pdf")},
    "report": ("page.html", lambda path: page().save(path)),
    "figure": ("role_map.svg", figures),
    "figure as png": ("role_map.png", figures),
    "claims": ("claims.json", claims),
    "table of claims": ("claims.parquet", claims),
    "tuned lens": ("lens.safetensors", lambda path: lens().save(path)),
    "results": ("records.parquet", results),
    "list of a comparison": ("comparison.json", write_comparison),
    "table of a comparison": ("comparison.parquet", write_comparison),
    "page of a comparison": ("comparison.html", write_comparison),
}  # fmt: skip


def table(path: Path) -> None:
    """A table that somebody else wrote."""
    pd.DataFrame({"mine": [1.0]}).to_parquet(path)


def write_run_table(path: Path) -> None:
    """A table of a run, under another name."""
    run = path.with_name("run")
    small_ablation().save(run)
    shutil.move(run / "records.parquet", path)
    shutil.rmtree(run)


def weights(path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path)


def text(path: Path) -> None:
    path.write_text("panel;row;column;value\nmy own notes")


def values(path: Path) -> None:
    path.write_text(json.dumps({"loss": 0.5}))


def link(path: Path) -> None:
    target = path.with_name("notes of mine")
    target.write_text("notes")
    path.symlink_to(target)


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("not here"))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "notes").write_text("notes")


@pytest.fixture(autouse=True)
def without_what_follows(monkeypatch):
    """Leave out what is computed of the tables, which takes most of the time of saving."""
    monkeypatch.setattr(type(small_ablation()), "derived_tables", lambda self: {})


def state(place: Path) -> dict[str, object]:
    """Contents of a folder: links and pipes as such, files with their bytes."""
    return {
        path.name: os.readlink(path) if path.is_symlink()
        else path.read_bytes() if path.is_file() else path.stat().st_mode
        for path in sorted(place.rglob("*"))
    }  # fmt: skip


THERE = [table, write_run_table, weights, text, values, link, dangling_link, pipe, folder]
# There it is what the door itself writes.
OWN = [("results", write_run_table), ("table of a comparison", write_run_table)]


# By day each door once before a file and once before a link, and each thing before two doors.
PAIRS = [pair for pair in product(DOORS, THERE) if pair not in OWN]
BY_DAY = [
    (door, there) for door, there in PAIRS
    if there in (text, link) or door in ("report", "claims")
]  # fmt: skip


@pytest.mark.parametrize(("door", "there"), few_by_day(PAIRS, *BY_DAY))
def test_no_door_replaces_what_is_not_its_own(door, there, tmp_path):
    name, write = DOORS[door]
    there(tmp_path / name)
    before = state(tmp_path)
    with pytest.raises(UserError) as refused:
        write(tmp_path / name)
    assert len(str(refused.value).split()) <= 30
    after = state(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"page of a comparison"}))
def test_every_door_replaces_what_it_wrote_itself(door, tmp_path):
    name, write = DOORS[door]
    write(tmp_path / name)
    first = os.stat(tmp_path / name).st_ino
    write(tmp_path / name)
    assert os.stat(tmp_path / name).st_ino != first


@pytest.mark.parametrize("door", ["results", "table of a comparison"])
def test_a_damaged_file_that_a_list_names_is_written_again(door, tmp_path):
    name, write = DOORS[door]
    write(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    write(tmp_path / name)
    assert is_table(tmp_path / name)


def test_the_lens_of_a_run_is_not_replaced_by_another(tmp_path):
    small_ablation().save(tmp_path)
    path = tmp_path / "tuned_lens.safetensors"
    lens().save(path)
    write_run_file(tmp_path, read_facts(tmp_path), file_hashes(tmp_path, written_files(tmp_path)))
    with pytest.raises(UserError, match="is no free-standing tuned lens that layerwise wrote"):
        lens(1.0).save(path)
    lens(1.0).save(tmp_path / "other.safetensors")
    lens(2.0).save(tmp_path / "other.safetensors")


def test_pictures_without_a_mark_are_never_replaced(tmp_path):
    figures(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as marked:
        marked.info.pop("Software")
        marked.save(tmp_path / "b.png", dpi=(200, 200))
    refuse_foreign_picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="is no picture that layerwise wrote"):
        refuse_foreign_picture(tmp_path / "b.png")


def test_a_transplant_is_refused_a_folder_for_both_before_any_work(tmp_path):
    model = commands.model_folder()
    for out, write in (("x", "x"), ("x", "x/model"), ("x/../y", "y")):
        given = ["transplant", model, model, "--out", tmp_path / out, "--write", tmp_path / write]
        says = "The model would be written into the folder of the run"
        commands.assert_command_refused(*given, says=says, unchanged=tmp_path)
    (tmp_path / "mine").mkdir()
    text(tmp_path / "mine" / "notes")
    given = ["transplant", model, model, "--out", tmp_path / "mine", "--write", tmp_path / "new"]
    commands.assert_command_refused(
        *given, says="mine holds other files (notes, ...)", unchanged=tmp_path
    )


def test_a_transplant_that_is_refused_writes_no_model(tmp_path):
    model = commands.model_folder()
    given = ["transplant", model, model, "--task", "facts", "--held-out", 0.3]
    says = "Items were to be held out (0.3), and no layers chosen by the others"
    commands.assert_command_refused(
        *given, "--write", tmp_path / "new", says=says, unchanged=tmp_path
    )
    small_ablation().save(tmp_path / "run")
    given = ["transplant", model, model, "--task", "facts", "--limit", 2, "--out", tmp_path / "run"]
    says = "run holds a run with other settings"
    commands.assert_command_refused(
        *given, "--write", tmp_path / "new", says=says, unchanged=tmp_path
    )


@pytest.mark.parametrize(("out", "write"), [("loop", "new"), ("new", "loop")])
def test_a_link_to_itself_is_no_folder_of_a_transplant(out, write, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    model = commands.model_folder()
    given = ["transplant", model, model, "--task", "facts", "--limit", 2]
    places = ["--out", tmp_path / out, "--write", tmp_path / write]
    commands.assert_refused(commands.run(*given, *places), "Cannot write", "loop")


@pytest.mark.parametrize("name", ["new.safetensors", "figures", "new.svg"])
def test_a_page_is_written_under_the_name_of_a_page_alone(name, tmp_path):
    says = f"{name} does not end as a page does: expected a name such as report.html"
    commands.assert_command_refused(
        "report", tmp_path, "--out", tmp_path / name, says=says, unchanged=tmp_path
    )
    with pytest.raises(UserError, match="does not end as a page does"):
        page().save(tmp_path / name)


@pytest.mark.parametrize("there", [write_run_table, weights, text, link, dangling_link, pipe])
def test_a_report_is_refused_another_file_before_it_is_made(there, tmp_path, monkeypatch):
    monkeypatch.setattr("layerwise.report.report_from_folders", None)
    there(tmp_path / "model.safetensors")
    ended = commands.run("report", tmp_path, "--out", tmp_path / "model.safetensors")
    commands.assert_refused(ended, "model.safetensors is no ")
