"""Users' own files as tables: the same tasks as from lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerwise.errors import UserError
from layerwise.tasks import expand_task_names, load_task

ROWS: list[dict[str, Any]] = [
    {"question": "Who sings, and when?", "answer": "Anna", "aliases": ["Anne", "Ann"],
     "choices": ["Ben", "Anna"], "context": "Anna sings.\nOtto does not."},
    {"question": "Is Rome here?", "answer": "yes", "choices": ["yes", "no"], "id": "rome",
     "corrupted_question": "Is Bonn here?", "corrupted_answer": "no"},
]  # fmt: skip
CSV = """\ufeffquestion,answer,aliases,choices,context,id,corrupted_question,corrupted_answer
"Who sings, and when?",Anna,Anne|Ann,Ben|Anna,"Anna sings.
Otto does not.",mine/0001,,

Is Rome here?,yes,,yes | no,,rome,Is Bonn here?,no
"""


def as_lines(folder: Path) -> str:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return str(path)


def as_csv(folder: Path, text: str = CSV, end: str = "\n") -> str:
    path = folder / "mine.csv"
    path.write_bytes(text.replace("\n", end).encode())
    return str(path)


def as_parquet(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "mine.parquet"
    fields = list(dict.fromkeys(field for row in rows for field in row))
    columns = {field: [row.get(field) for row in rows] for field in fields}
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("write", [as_csv, as_parquet])
def test_a_table_is_the_same_task_as_lines(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    task = load_task(path)
    assert (task.name, task.source) == ("mine", path)
    assert task.items == load_task(as_lines(tmp_path)).items
    assert expand_task_names([path]) == [path]


def test_windows_line_ends(tmp_path: Path) -> None:
    path = as_csv(tmp_path, end="\r\n")
    assert load_task(path).items == load_task(as_lines(tmp_path)).items


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("question,answer\n", "is empty; expected one question a row."),
        ("question,question\na,b\n", ", line 1: column 'question' stands twice; expected each "
         "once."),
        ("question,answer\na,b,c\n", ", line 2: 3 cells, but 2 columns; expected one for each "
         "column, with quotes around commas."),
        ("question,answer\na,\n", ", line 2: field 'answer' is missing; expected a text."),
        ("question,reply\na,b\n", ", line 2: field 'answer' is missing (there are 'question', "
         "'reply'); expected a text."),
        ('question,answer\n"a"b,c\n', ", line 2: not CSV (',' expected after '\"')."),
        ("question,answer\na\0,c\n", ", line 2: field 'a cell' has a null character or half of "
         "one (a lone surrogate); expected a text of whole characters."),
    ],
)  # fmt: skip
def test_tables_that_are_not_tasks(tmp_path: Path, text: str, sentence: str) -> None:
    path = as_csv(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_task(path)
    assert str(caught.value) == f"File {path!r}" + (
        sentence if sentence.startswith(",") else f" {sentence}"
    )


def test_parquet_files_that_are_not_tasks(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, [{"question": "Who?", "answer": 3}])
    with pytest.raises(UserError, match="line 1: field 'answer' is not a text"):
        load_task(path)
    Path(path).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot be read .*; expected a Parquet file"):
        load_task(path)
    with pytest.raises(UserError, match=r"cannot be read \("):
        load_task(str(tmp_path / "nowhere.parquet"))
