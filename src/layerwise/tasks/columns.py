"""Data sets in a folder, whose columns a name maps: ``hf:NAME:question=...:data=FOLDER``.

Files are those of a data set on the hub, one or several for each split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown

from ._lines import bad_line
from ._source_names import SourceName, read_source_name
from .jsonl import READERS, row_of, task_of
from .task import Task

PREFIX = "hf"
_FIELDS = ("question", "answer", "choices", "context", "cluster")
_HOLE = re.compile(r"\{(\w+)\}")


def matches(name: str) -> bool:
    """Whether a task's name maps the columns of a data set."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a split of a data set from a folder."""
    asked = read_source_name(name, (*_FIELDS, "split", "capability"))
    path, rows = "", []
    for path, line, values in _rows(asked, name):
        row = row_of(path, line, _fields(path, line, values, asked.arguments))
        rows.append((len(rows) + 1, row))
    if not rows:
        raise UserError(f"Task {name!r} has no rows; expected one at least.")
    return replace(task_of(path, rows, fewshot), name=f"{PREFIX}:{asked.base}", source=name)


def _rows(asked: SourceName, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a split's files, with the file and the line of each."""
    if asked.data is None:
        raise UserError(
            f"Task {name!r} does not say where its files are; expected the folder of the data set "
            f"behind data=, such as {name}:data=FOLDER."
        )
    split, folder = asked.arguments.get("split", "test"), Path(asked.data)
    files = [one for one in sorted(folder.rglob(f"{split}*")) if one.suffix in READERS]
    if not files:
        raise UserError(
            f"{asked.data!r} has no file of the split {split!r}; expected {split}.jsonl, .csv or "
            ".parquet there; name another split with split=."
        )
    for file in files:
        for line, values in READERS[file.suffix](str(file)):
            yield str(file), line, values


def _fields(
    path: str, number: int, values: Mapping[str, Any], named: Mapping[str, str]
) -> dict[str, Any]:
    """A row with the fields of a user's own file."""

    def column(name: str) -> Any:
        if name not in values:
            known = ", ".join(values)
            raise bad_line(path, number, f"no column {shown(name)}; its columns are {known}")
        return values[name]

    def text(spec: str) -> Any:
        if "{" in spec:
            return _HOLE.sub(lambda found: str(column(found[1])), spec)
        return column(spec)

    given = {key: text(named.get(key, key)) for key in ("question", "answer")}
    given |= {key: text(named[key]) for key in ("context", "cluster") if key in named}
    given |= {"capability": named["capability"]} if "capability" in named else {}
    if "choices" in named:
        listed = [column(one) for one in named["choices"].split("+")]
        options, labels = _options(listed[0] if len(listed) == 1 else listed)
        given |= {"choices": options, "answer": _answer(given["answer"], options, labels)}
    return {key: str(value) if isinstance(value, (int, float)) else value
            for key, value in given.items()}  # fmt: skip


def _options(column: Any) -> tuple[Any, list[str]]:
    """Texts and their labels; of a list without labels these are letters."""
    if isinstance(column, Mapping) and {"text", "label"} <= set(column):
        return column["text"], list(map(str, column["label"]))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    texts = [str(one) for one in column] if isinstance(column, list) else column
    return texts, list(letters[: len(texts)] if isinstance(texts, list) else ())


def _answer(answer: Any, options: Any, labels: list[str]) -> Any:
    """The text of the right option, which a row names by text, label or place from 0."""
    if not isinstance(options, list) or answer in options:
        return answer
    if answer in labels:
        return options[labels.index(answer)]
    place = int(answer) if str(answer).isdecimal() else -1
    return options[place] if 0 <= place < len(options) else answer
