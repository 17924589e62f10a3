"""Data sets of the hub, whose columns a name maps: ``hf:OWNER/NAME:SPLIT:question=...``.

With ``data=FOLDER`` they are read from a folder, one or several files for each split; the network
is used only without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, shown

from ._lines import MOST_LINES, bad_line, known_values
from ._source_names import SourceName, read_source_name
from .jsonl import READERS, row_of, task_of
from .task import Task

PREFIX = "hf"
# The split behind the name, which may also be given as ``split=``.
_SPLIT = re.compile(rf"({PREFIX}:[^:]+):([^:=]+)(?=:|$)")


def matches(name: str) -> bool:
    """Whether a task's name maps the columns of a data set."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a split of a data set from a folder, or fetch it from the hub."""
    fields = ("question", "answer", "choices", "context", "cluster")
    known = (*fields, "split", "capability", "config")
    source = read_source_name(_SPLIT.sub(r"\1:split=\2", name, count=1), known)
    path, rows = "", []
    for path, line, values in _rows(source, name):
        row = row_of(path, line, _fields(path, line, values, source.arguments))
        rows.append((len(rows) + 1, row))
    if not rows:
        raise UserError(f"Task {name!r} has no rows; expected one at least.")
    return replace(task_of(path, rows, fewshot), name=f"{PREFIX}:{source.base}", source=name)


def _rows(source: SourceName, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a split's files, with the file and the line of each."""
    split = source.arguments.get("split", "test")
    if source.data is None:
        yield from _of_hub(source, split, name)
        return
    folder = Path(source.data)
    files = [file for file in sorted(folder.rglob(f"{split}*")) if file.suffix in READERS]
    if not files:
        raise UserError(
            f"{source.data!r} has no file of the split {split!r}; expected {split}.jsonl, .csv or "
            ".parquet there; name another split with split=."
        )
    for file in files:
        for line, values in READERS[file.suffix](str(file)):
            yield str(file), line, values


def _of_hub(source: SourceName, split: str, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a split on the hub, or in its cache on this machine."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.base, re.ASCII):
        raise UserError(
            f"Task {name!r} names no data set on the hub; expected hf:OWNER/NAME:SPLIT, or the "
            f"folder of its files behind data=, such as {name}:data=FOLDER."
        )
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "Data sets of the hub need the package datasets, which is not installed; run "
            f"pip install 'layerwise[datasets]', or give local files: {name}:data=FOLDER."
        ) from error
    if int(datasets.__version__.partition(".")[0]) < 5:
        raise UserError(
            f"The package datasets is of release {datasets.__version__}, which may run code of a "
            "data set; expected 5 or later; run pip install -U 'layerwise[datasets]'."
        )
    try:
        rows: Any = datasets.load_dataset(source.base, source.arguments.get("config"), split=split)
    except Exception as error:
        raise UserError(
            f"The split {split!r} of {source.base!r} cannot be loaded ({type(error).__name__}: "
            f"{one_line(error)}); expected a network, or the data set in the hub's cache here, "
            f"with this split and config=; or give local files: {name}:data=FOLDER."
        ) from error
    if len(rows) > MOST_LINES:
        raise UserError(
            f"The split {split!r} of {source.base!r} has more than {MOST_LINES:,} rows; expected "
            "fewer; save some of them as a file, and name its folder behind data=."
        )
    path = f"{source.base}/{split}.parquet"
    for number, row in enumerate(rows, 1):
        yield path, number, known_values(path, number, row)


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
            return re.sub(r"\{(\w+)\}", lambda match: str(column(match[1])), spec)
        return column(spec)

    given = {key: text(named.get(key, key)) for key in ("question", "answer")}
    given |= {key: text(named[key]) for key in ("context", "cluster") if key in named}
    given |= {"capability": named["capability"]} if "capability" in named else {}
    if "choices" in named:
        listed = [column(part) for part in named["choices"].split("+")]
        options, labels = _options(listed[0] if len(listed) == 1 else listed)
        given |= {"choices": options, "answer": _answer(given["answer"], options, labels)}
    return {key: str(value) if isinstance(value, (int, float)) else value
            for key, value in given.items()}  # fmt: skip


def _options(column: Any) -> tuple[Any, list[str]]:
    """Texts and their labels; of a list without labels these are letters."""
    if isinstance(column, Mapping) and {"text", "label"} <= set(column):
        return column["text"], list(map(str, column["label"]))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    texts = [str(value) for value in column] if isinstance(column, list) else column
    return texts, list(letters[: len(texts)] if isinstance(texts, list) else ())


def _answer(answer: Any, options: Any, labels: list[str]) -> Any:
    """The text of the right option, which a row names by text, label or place from 0."""
    if not isinstance(options, list) or answer in options:
        return answer
    if answer in labels:
        return options[labels.index(answer)]
    place = int(answer) if str(answer).isdecimal() else -1
    return options[place] if 0 <= place < len(options) else answer
