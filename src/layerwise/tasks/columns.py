"""Data sets of the hub, whose columns a name maps: ``hf:OWNER/NAME:SPLIT:question=...``.

With ``data=FOLDER`` they are read from a folder, one or several files for each split; the network
is used only without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from layerwise.errors import UserError, count_noun, one_line, short_repr, unknown_name

from ._lines import MOST_LINES, bad_line, known_values, some_names
from ._source_names import SourceName, read_source_name
from .jsonl import READERS, build_task, read_row
from .right_option import (
    LETTERS,
    READINGS,
    Reading,
    fitting_readings,
    in_words,
    option_places,
    plain_text,
)
from .task import Task

PREFIX = "hf"
# A folder with more below it is no data set, but a disk.
_MOST_FOLDERS = 10_000
# The split behind the name, which may also be given as ``split=``.
_SPLIT = re.compile(rf"({PREFIX}:[^:]+):([^:=]+)(?=:|$)")


def matches(name: str) -> bool:
    """True if a task's name maps the columns of a data set."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a split of a data set from a folder, or fetch it from the hub."""
    fields = ("question", "answer", "choices", "context", "cluster")
    known = (*fields, "answer_is", "split", "capability", "config")
    source = read_source_name(_SPLIT.sub(r"\1:split=\2", name, count=1), known)
    read_as = source.arguments.get("answer_is")
    if read_as not in (None, *READINGS):
        raise unknown_name("way to read answers (answer_is)", str(read_as), READINGS)
    given = [
        MappedRow(path, line, *_fields(path, line, values, source.arguments))
        for path, line, values in _rows(source, name)
    ]
    if not given:
        raise UserError(f"Task {name!r} has no rows; expected one at least.")
    rows = [
        (number, read_row(one.path, one.line, fields))
        for number, (one, fields) in enumerate(with_right_answers(given, read_as), 1)
    ]
    return replace(
        build_task(given[-1].path, rows, fewshot), name=f"{PREFIX}:{source.base}", source=name
    )


class MappedRow(NamedTuple):
    """A row with the fields of a user's own file, whose answer may name a choice."""

    path: str
    line: int
    fields: dict[str, Any]
    labels: list[str] | None  # of the choices, where the data set has some


def with_right_answers(
    rows: Sequence[MappedRow], read_as: str | None
) -> Iterator[tuple[MappedRow, dict[str, Any]]]:
    """The rows, each with the text of its right choice as the answer."""
    if "choices" not in rows[0].fields:
        yield from ((row, row.fields) for row in rows)
        return
    # Labels of the data set's own are there to be named, so no place is meant beside them.
    kept = {read_as} if read_as else {*READINGS}
    named = [
        option_places(row.fields["answer"], row.fields["choices"], row.labels or LETTERS)
        for row in rows
    ]
    if not read_as and all(
        row.labels and "label" in one for row, one in zip(rows, named, strict=True)
    ):
        kept.remove("place")
    places: list[dict[Reading, int]] = [
        {one: at for one, at in row.items() if one in kept} for row in named
    ]
    fitting, at = fitting_readings(places)
    if at < len(rows):
        wrong = _unreadable_answer(
            rows[at].fields["answer"], places[at], fitting, read_as, in_memory=not rows[at].path
        )
        raise bad_line(rows[at].path, rows[at].line, wrong)
    reading = next(iter(fitting))
    for row, one in zip(rows, places, strict=True):
        yield row, {**row.fields, "answer": row.fields["choices"][one[reading]]}


def _unreadable_answer(
    answer: str,
    places: Mapping[Reading, int],
    fitting: set[Reading],
    read_as: str | None,
    *,
    in_memory: bool,
) -> str:
    """Reason why it is not known which choice an answer names, and what to do."""
    if not fitting:
        expected = f"the {read_as}" if read_as else "the text, label or place from 0"
        return (
            f"field 'answer' is {short_repr(answer)}; expected {expected} of a choice, "
            f"as in all rows"
        )
    ways: dict[Reading, int] = {one: places[one] for one in READINGS if one in fitting}
    named = " or ".join(f"answer_is={one!r}" if in_memory else f"answer_is={one}" for one in ways)
    where = "" if in_memory else " to the task's name"
    return f"the answer {short_repr(answer)} is {in_words(ways)}; add {named}{where}"


# What a system allows at most of a path that it opens, with room for the rest of a sentence.
_LONGEST_PATH = 1000


def _rows(source: SourceName, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The rows of a split's files, with the file and the line of each."""
    split = source.arguments.get("split", "test")
    if source.data is None:
        yield from _hub_rows(source, split, name)
        return
    files = _files(source.data, split) if _can_be_path(source.data) else []
    if not files:
        # a path may be long, and a made-up one endless
        where = repr(source.data) if len(source.data) < _LONGEST_PATH else short_repr(source.data)
        raise UserError(
            f"{where} has no file of the split {short_repr(split)}; expected a .jsonl, .csv or "
            ".parquet file whose name begins so; name another split with split=."
        )
    for file in files:
        for line, values in READERS[file.suffix](str(file)):
            yield str(file), line, values


def _can_be_path(text: str) -> bool:
    """True if a folder could have that name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _files(folder: str, split: str) -> list[Path]:
    """The files in a folder, or in one below it, whose names begin with the split."""
    files, depth = [], split.count("/") + 1
    # Folders that cannot be listed are passed over.
    for number, (place, folders, names) in enumerate(os.walk(folder)):
        if number >= _MOST_FOLDERS:
            raise UserError(
                f"{folder!r} has more than {_MOST_FOLDERS:,} folders; expected that of a data set; "
                "give the folder that has its files behind data=."
            )
        folders.sort()
        for path in (Path(place, name) for name in names):
            if path.suffix in READERS and "/".join(path.parts[-depth:]).startswith(split):
                files.append(path)
    return sorted(files)


def _hub_rows(
    source: SourceName, split: str, name: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
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
) -> tuple[dict[str, Any], list[str] | None]:
    """A row with the fields of a user's own file, and the labels of its choices if it has some."""

    def column(name: str) -> Any:
        if name not in values:
            columns = some_names(values)
            raise bad_line(path, number, f"no column {short_repr(name)}; its columns are {columns}")
        return values[name]

    def text(name: str, value: Any) -> str:
        return read_text(path, number, f"column {short_repr(name)}", value)

    def spec_text(spec: str) -> str:
        if "{" in spec:
            return re.sub(r"\{(\w+)\}", lambda match: text(match[1], column(match[1])), spec)
        return text(spec, column(spec))

    fields = {key: spec_text(named.get(key, key)) for key in ("question", "answer")}
    fields |= {key: spec_text(named[key]) for key in ("context", "cluster") if key in named}
    fields |= {"capability": named["capability"]} if "capability" in named else {}
    if "choices" not in named:
        return fields, None
    name = named["choices"]
    if "+" in name:
        return {**fields, "choices": [text(one, column(one)) for one in name.split("+")]}, None
    options, labels = read_options(path, number, f"column {short_repr(name)}", column(name))
    return {**fields, "choices": options}, labels


def read_text(path: str, number: int, what: str, value: Any) -> str:
    """A text, or a number or truth value as a text."""
    try:
        return plain_text(value)
    except ValueError as error:
        raise bad_line(path, number, f"{what} is {error}") from error


def read_options(
    path: str, number: int, what: str, value: Any
) -> tuple[list[str], list[str] | None]:
    """Options of a list, or of texts with their labels, with the labels if there are some."""

    def texts(listed: Any) -> list[str]:
        if not isinstance(listed, list):
            wrong = f"{what} is {short_repr(listed)}, not a list"
            raise bad_line(path, number, f"{wrong}; expected a list of texts")
        return [read_text(path, number, what, one) for one in listed]

    if not (isinstance(value, Mapping) and {"text", "label"} <= set(value)):
        return texts(value), None
    options, labels = texts(value["text"]), texts(value["label"])
    if len(options) != len(labels):
        both = f"{count_noun(len(options), 'text')} and {count_noun(len(labels), 'label')}"
        raise bad_line(path, number, f"{what} has {both}; expected one label for each text")
    return options, labels
