"""A run's files for a paper."""

from __future__ import annotations

import csv
import email.message
import io
import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from layerwise.errors import UserError
from layerwise.presentation.charts.heat import LOST, Cells, Strip, strips
from layerwise.presentation.section import FigureSpec, Table
from layerwise.presentation.style import with_style
from layerwise.report import paper
from layerwise.report._methods import methods, references
from layerwise.report.paper import COLUMNS, latex, split_estimates, tooltip_numbers
from layerwise.storage.run_tables import RunTables
from tests import synthetic
from tests.commands import contents, run
from tests.models.tiny import tiny_model
from tests.tasks.small import small_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    lw.ablate(tiny_model("llama"), small_task(), "continuation", out=path, progress=False)
    return path


@pytest.mark.long
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
        assert rows[0] == ["panel", *COLUMNS]
        assert all(math.isfinite(float(row[3])) for row in rows[1:])
        height, width = matplotlib.image.imread(tmp_path / f"{name}.png").shape[:2]
        assert width <= 3.3 * 200 + 1
        assert height <= 1.7 * width
    methods = (tmp_path / "methods.txt").read_text("utf-8")
    assert small_task().name in methods
    assert "The seed was 0." in methods
    assert "by skipping each layer" in methods
    assert "exact and corrected" not in methods
    cited = (tmp_path / "references.bib").read_text("utf-8")
    assert "2510.02091" in cited
    page = (Path(__file__).parents[2] / "docs" / "index.md").read_text("utf-8")
    (entry,) = re.findall(r"@software.*?\n}\n", page, re.DOTALL)
    assert re.sub(r"\d{4}", "", entry) in re.sub(r"\d{4}", "", cited)
    assert cited.count("  author = {") == 2
    assert "first_screen" in pictures
    assert not any("below" in (tmp_path / f"{name}.txt").read_text("utf-8") for name in pictures)
    head, *tests = csv.reader(io.StringIO((tmp_path / "tests.csv").read_text("utf-8")))
    assert {"estimate", "p", "test"} <= set(head)
    assert tests
    assert any(name.endswith(".tex") for name in names)


def test_a_table_in_latex_is_escaped():
    table = Table("A", ("50 %", "a_b"), [["x & y", "{1} \\ ~"]])
    text = latex(table)
    assert r"50 \% & a\_b \\" in text
    assert r"x \& y & \{1\} \textbackslash{} \textasciitilde{} \\" in text


@pytest.mark.long
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


@with_style
def tall(n_panels: int, width: float) -> object:
    """A figure of strips, one above the other, with a tooltip each."""
    cell = Cells(np.ones((5, 4)) / 2, ((0, 0, "layer 0: 50 [40, 60] % lost, n = 9", ""),), ())
    panels = strips([Strip([f"task {i}"], list("abcde"), cell) for i in range(n_panels)], width,
                    left=0.5, least=width)  # fmt: skip
    panels.over_layers(range(4), cells=True)
    return panels.finish("", "layer", bar=LOST)


@pytest.mark.long
def test_a_tall_figure_comes_in_parts_with_the_axis_under_each():
    spec = FigureSpec("tall", partial(tall, 11), "Caption.", "alt")
    files = dict(paper._figure_files(spec, 3.3, ("png",)))
    parts = [name for name in files if name.endswith(".png")]
    assert parts == [f"tall_part{1 + i}.png" for i in range(len(parts))]
    assert len(parts) > 2
    titles = []
    for name in parts:
        height, width = matplotlib.image.imread(io.BytesIO(files[name])).shape[:2]
        assert 0.7 * width < height <= 1.5 * width
        values = files[name.replace("png", "csv")].decode()
        titles += [row["panel"] for row in csv.DictReader(io.StringIO(values))]
        assert files[name.replace("png", "txt")].decode().startswith("Caption. (Part ")
    assert titles == [f"task {i}" for i in range(11)]
    with paper.part_of_figures(1.5, 0):
        first = tall(11, width=3.3)
    lowest = first.axes[-2]  # before the bar
    assert lowest.get_xlabel() == "layer"
    assert [one.get_text() for one in lowest.get_xticklabels()] == ["0", "1", "2", "3"]
    assert len(dict(paper._figure_files(replace(spec, draw=partial(tall, 1)), 3.3, ("svg",)))) == 3


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("picks a letter, layer 0: 102 [89, 116] % lost, n = 100, not significant",
         ["picks a letter", "0", "102", "89", "116", "% lost", "100", "false"]),
        ("kv, layer −1: −9.21 [−9.42, −9.00] nats, n = 7",
         ["kv", "-1", "-9.21", "-9.42", "-9.00", "nats", "7", ""]),
        ("layer 3, last changed: 1,100 %, significant",
         ["last changed", "3", "1100", "", "", "%", "", "true"]),
        ("layer 4, when it writes: 5 % of the score lost (a 4 [1, 2] %, n = 3; b 6 %, n = 4)",
         ["when it writes", "4", "5", "", "", "% of the score lost", "", ""]),
        ("nothing known", ["nothing known", "", "", "", "", "", "", ""]),
    ],
)  # fmt: skip
def test_what_a_mark_says_is_written_as_numbers(text, numbers):
    assert tooltip_numbers(text) == numbers


def test_a_long_table_is_cut_with_all_rows_as_numbers_beside_it():
    rows = [[f"task {i}", f"−{i} [−9, 2] •"] for i in range(300)]
    files = dict(paper._files_of_table("t_1", Table("T", ("task", "lost"), rows)))
    text = files["t_1.tex"].decode()
    assert text.count(r"\\") == 1 + 40
    assert "The first 40 of 300 rows; all are in t_1.csv." in text
    read = list(csv.reader(io.StringIO(files["t_1.csv"].decode())))
    assert read[0] == ["task", "lost", "lost low", "lost high"]
    assert read[-1] == ["task 299", "-299", "-9", "2"]
    assert split_estimates(Table("T", ("a",), [["x"]])) == [["a"], ["x"]]


def test_cells_of_a_long_table_are_written_as_numbers():
    table = Table("T", ("accuracy", "head"), [["83 → 17", "–"], ["1,100 → −5", "1,024"]])
    heads, *rows = split_estimates(table)
    assert heads == ["accuracy before", "accuracy after", "head"]
    assert rows == [["83", "17", ""], ["1100", "-5", "1024"]]


def test_long_texts_of_a_latex_table_break_their_lines():
    text = latex(Table("T", ("claim", "p"), [["a claim of many words " * 4, "0.01"]]))
    assert r"\begin{tabular}{p{0.25\textwidth}l}" in text


def test_methods_name_quantized_files_and_what_was_done():
    result = synthetic.small_ablation()
    model = replace_model(result.facts, quantization="NF4, read as float32")
    patched = pd.DataFrame({"site": ["resid_pre"], "direction": ["denoising"]})
    lenses = pd.DataFrame({"lens": ["logit", "tuned"]})
    table = RunTables(model, {"lens": lenses, "patching_summary": patched})
    text = methods(table)
    assert "computed in float32, from files with weights quantized as NF4, read as float32" in text
    assert "as if it were the last (logit lens and tuned lens" in text
    assert "Activations (resid_pre) were patched from the clean into the corrupted run" in text
    assert "Benjamini and Hochberg's for heads, patches and pairs of layers." in text


def replace_model(facts, **changes):
    return facts.model_copy(update={"model": facts.model.model_copy(update=changes)})


def test_references_name_an_address_only_if_the_package_does(monkeypatch):
    facts = synthetic.small_ablation().facts
    own = references(facts).partition("@article")[0]
    assert "author = {{The layerwise authors}}" in own
    assert "url" not in own  # the paper that layerwise follows is not the address of its code
    named = email.message.Message()
    named["Project-URL"] = "Paper, https://example.org/paper"
    named["Project-URL"] = "Repository, https://example.org/layerwise"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: named)
    own = references(facts).partition("@article")[0]
    assert "  url = {https://example.org/layerwise}," in own


def test_a_folder_of_figures_is_written_again_but_never_what_is_not_its_own(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(paper, "sections", lambda run: [])
    out, write = tmp_path / "f", partial(lw.figures_for_paper, folder, tmp_path / "f")
    write()
    (out / "main.tex").write_text("mine")
    (out / "tests.tex").unlink()
    write()
    before = contents(out)
    assert before["main.tex"] == b"mine"
    (out / "methods.txt").write_text("edited")
    with pytest.raises(UserError, match=r"methods\.txt was changed after it was written"):
        write()
    assert contents(out) == before | {"methods.txt": b"edited"}
    (out / "methods.txt").unlink()
    listed = json.loads((out / "figures.json").read_text())
    del listed["files"]["tests.tex"]
    (out / "figures.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=r"tests\.tex is no file of figures that layerwise wrote"):
        write()
    for name, says in (("notes.txt", "holds other files"), ("figures.json", "holds other files")):
        other = tmp_path / name
        other.mkdir()
        (other / name).write_text("{}" if name == "notes.txt" else "mine")
        done = run("figures", folder, "--out", other)
        assert done.code == 2
        assert says in done.err
        assert len(list(other.iterdir())) == 1
