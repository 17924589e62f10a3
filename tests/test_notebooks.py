"""What readers of the committed notebooks count on; ``make test`` runs them with nbmake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 350_000


def test_there_are_six_notebooks():
    assert [file.name[:2] for file in FILES] == [f"{number}_" for number in range(1, 7)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_asks_answers_and_takes_parameters(file):
    text = file.read_text("utf-8")
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "?" in cells[0]["source"][0]
    assert "**What this notebook earned:**" in "".join(cells[-1]["source"])
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert re.search(r'^MODEL = "', "".join(code[0]["source"]), re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_is_committed_as_it_ran(file):
    text = file.read_text("utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs)
    assert len(text.encode()) < LARGEST
    assert "site-packages" not in text
