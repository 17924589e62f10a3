"""A run's files for a paper."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import matplotlib.image
import pytest

import layerwise as lw
from layerwise.presentation.section import Table
from layerwise.report.paper import latex
from tests.commands import run
from tests.models.tiny import tiny_model
from tests.tasks.small import small_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    lw.ablate(tiny_model("llama"), small_task(), "continuation", out=path, progress=False)
    return path


def test_each_figure_has_a_picture_a_caption_and_its_values(folder, tmp_path):
    files = lw.figures_for_paper(folder, tmp_path, formats=("pdf", "png"))
    names = {file.name for file in files}
    pictures = sorted(name.removesuffix(".pdf") for name in names if name.endswith(".pdf"))
    assert pictures
    for name in pictures:
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert b"/Type3" not in (tmp_path / f"{name}.pdf").read_bytes()
        assert (tmp_path / f"{name}.txt").read_text("utf-8")
        rows = list(csv.reader(io.StringIO((tmp_path / f"{name}.csv").read_text("utf-8"))))
        assert rows[0] == ["panel", "value"]
        width = matplotlib.image.imread(tmp_path / f"{name}.png").shape[1]
        assert width <= 3.3 * 200 + 1
    methods = (tmp_path / "methods.txt").read_text("utf-8")
    assert small_task().name in methods
    assert "The seed was 0." in methods
    references = (tmp_path / "references.bib").read_text("utf-8")
    assert "2510.02091" in references
    page = (Path(__file__).parents[2] / "docs" / "index.md").read_text("utf-8")
    (entry,) = re.findall(r"@software.*?\n}\n", page, re.DOTALL)
    assert re.sub(r"\d{4}", "", entry) in re.sub(r"\d{4}", "", references)
    assert any(name.endswith(".tex") for name in names)


def test_a_table_in_latex_is_escaped():
    table = Table("A", ("50 %", "a_b"), [["x & y", "{1} \\ ~"]])
    text = latex(table)
    assert r"50 \% & a\_b \\" in text
    assert r"x \& y & \{1\} \textbackslash{} \textasciitilde{} \\" in text


def test_the_command_writes_them(folder, tmp_path):
    done = run("figures", folder, "--out", tmp_path / "f", "--format", "svg")
    assert "Wrote" in done.out
    assert list((tmp_path / "f").glob("*.svg"))
    assert run("figures", folder, "--out", tmp_path / "f", "--format", "gif").code == 2


def test_the_command_takes_a_width_with_a_unit_and_refuses_another_before_it_draws(
    folder, tmp_path
):
    narrow, refused = tmp_path / "narrow", tmp_path / "refused"
    run("figures", folder, "--out", narrow, "--format", "png", "--width", "84mm")
    for file in narrow.glob("*.png"):
        assert matplotlib.image.imread(file).shape[1] == pytest.approx(84 / 25.4 * 200, abs=2)
    done = run("figures", folder, "--out", refused, "--width", "wide")
    assert done.code == 2
    assert "Cannot draw a figure of width 'wide'" in done.err
    assert not refused.exists()
