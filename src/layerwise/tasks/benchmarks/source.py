"""Benchmarks from a folder of their files, as tasks.

Which files and which template a benchmark has is in ``table``.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from layerwise import stats
from layerwise.errors import UserError, count_noun, short_repr, unknown_name
from layerwise.ground.regular_files import open_regular
from layerwise.tasks._lines import (
    bad_line,
    csv_cells,
    is_whole,
    json_value,
    objects,
    some_names,
)
from layerwise.tasks._source_names import SourceName, read_source_name
from layerwise.tasks.items import Item, cluster_repeats, commonest_answer, guessing_chance
from layerwise.tasks.task import Task, one_line_answers

from .rows import Row
from .table import BENCHMARKS, N_OPTIONS, Benchmark, shuffle_options

PREFIX = "benchmark"
_MOST_BYTES = 2**26
_IN_A_FOLDER = {"/", "\\", "\0"}


def matches(name: str) -> bool:
    """True if a task's name is that of a benchmark."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a benchmark from its files."""
    source, benchmark = _parse_name(name)
    files = _matching_files(source, benchmark.files) or _refuse_missing_part(source, benchmark)
    read = [item for part, path in files for item in _items(source, benchmark, part, path, seed)]
    # The items of each group by turns, so that all have their share of any beginning.
    places: Counter[str | None] = Counter()
    turns = []
    for item in filter(_is_complete, read):
        turns.append((places[item.group], item))
        places[item.group] += 1
    kept = [item for _, item in sorted(turns, key=lambda turn: turn[0])]
    if not kept:
        raise UserError(f"Task {name!r} has no item that can be asked; expected one at least.")
    examples, items = _split_fewshot(source, benchmark, kept, fewshot, seed)
    # Who writes may give the commonest answer of a group, or a value that a context lists.
    listed = [(item.context or "").count('": "') for item in items]
    stated = sum(1 / n if n else 0.0 for n in listed) / len(items)
    dropped = len(read) - len(kept)
    return Task(
        name=source.label,
        capability=benchmark.capability,
        description=benchmark.description
        + (
            f"; {count_noun(dropped, 'row')} left out, with equal options or none"
            if dropped
            else ""
        ),
        items=cluster_repeats(items),
        fewshot=tuple(examples),
        generate=benchmark.generate or one_line_answers(kept),
        chance=guessing_chance(items, max(commonest_answer(items), stated)),
        template=benchmark.template,
        source=name,
    )


def _parse_name(name: str) -> tuple[SourceName, Benchmark]:
    base = name.split(":")[1]
    if base not in BENCHMARKS:
        raise unknown_name("benchmark", base, BENCHMARKS)
    benchmark = BENCHMARKS[base]
    source = read_source_name(name, [benchmark.part] if benchmark.part else [])
    if source.data is None:
        raise UserError(
            f"Task {name!r} does not say where its files are; expected the folder behind data=, "
            f"such as {name}:data=FOLDER."
        )
    return source, benchmark


def _refuse_missing_part(source: SourceName, benchmark: Benchmark) -> NoReturn:
    """Refuse a part that is not there, or a folder without the benchmark."""
    parts = (
        _matching_files(replace(source, arguments={}), benchmark.files) if source.arguments else []
    )
    if parts and benchmark.part:
        raise unknown_name(
            benchmark.part, source.arguments[benchmark.part], [part for part, _ in parts]
        )
    expected = " or ".join(pattern.format(part="*") for pattern in benchmark.files)
    raise UserError(
        f"{source.data!r} has no file of {PREFIX}:{source.base}: expected {expected}; give the "
        "folder that has it, or the file, behind data=."
    )


def _matching_files(source: SourceName, patterns: Iterable[str]) -> list[tuple[str, Path]]:
    """The files of the first pattern that matches any, each with the part that it holds."""
    data, parts = Path(str(source.data)), [*source.arguments.values()]
    part = glob.escape(parts[0]) if parts else "*"
    if not _IN_A_FOLDER.isdisjoint(part):  # a part is the name of a file
        return []
    try:
        if data.is_file():
            return [(data.stem, data)]
        for folder in (data / source.base, data):
            for pattern in patterns:
                paths = sorted(folder.glob(pattern.format(part=part)))
                if "{part}" not in pattern and len(paths) > 1:
                    names = some_names(path.name for path in paths)
                    raise UserError(
                        f"Folder {str(folder)!r} has several files of {PREFIX}:{source.base} "
                        f"({names}); expected one, so give its path behind data=."
                    )
                if paths:
                    return [(path.stem.removesuffix("_test"), path) for path in paths]
    except OSError as error:
        raise UserError(
            f"Folder {short_repr(source.data)} cannot be read ({error.strerror}); expected "
            f"the folder "
            "of a benchmark; give its path behind data=."
        ) from error
    return []


def _items(
    source: SourceName, benchmark: Benchmark, part: str, path: Path, seed: int, split: str = ""
) -> list[Item]:
    """The items of a file, with their ids, and in random order the options that have none."""
    rng = stats.generator(seed, PREFIX, source.base, part, split)
    rows = _Rows(path)
    try:
        made = list(benchmark.items(rows, rng))
        for item in made:
            _refuse_broken_texts(item)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        wrong, usual = str(error), f"; expected the authors' own file of {PREFIX}:{source.base}"
        said = wrong if "; expected " in wrong else wrong + usual
        raise UserError(f"File {str(path)!r}{rows.place}: {said}.") from error
    place = "/".join(
        [source.base, *([part] if benchmark.part else []), *([split] if split else [])]
    )
    return [
        replace(
            item,
            id=f"{place}/{number:04d}",
            group=part if benchmark.part else item.group,
            choices=shuffle_options(item.choices, rng) if benchmark.mix else item.choices,
        )
        for number, item in enumerate(made)
    ]


class _Rows:
    """The rows of a file, and the place of the one that was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = ""

    def __iter__(self) -> Iterator[Row]:
        noun = "row" if self._path.suffix == ".json" else "line"
        for number, row in _numbered_rows(self._path):
            self.place = f", {noun} {number}"
            yield row


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file, each with its line, or its number in a list."""
    if path.suffix == ".jsonl":
        yield from objects(str(path))
    elif path.suffix == ".csv":  # with a header, or without as MMLU is published
        fields = ["question", *(f"choice{place}" for place in range(N_OPTIONS)), "answer"]
        for number, row in csv_cells(str(path), strict=False):
            if row and row != fields:
                if len(row) != len(fields):
                    what = f"{count_noun(len(row), 'cell')}; expected {', '.join(fields)}"
                    raise bad_line(str(path), number, what)
                yield number, dict(zip(fields, row, strict=True))
    else:
        yield from enumerate(_json_rows(path), 1)


def _json_rows(path: Path) -> list[Row]:
    """The rows of a JSON file."""
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"File {str(path)!r} is larger than 64 MiB; expected less, so cut it.")
        read = json_value(content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"File {str(path)!r} cannot be read ({error.strerror}); expected the authors' own file."
        ) from error
    rows = read if isinstance(read, list) else [read]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is no object")
    return rows


def _refuse_broken_texts(item: Item) -> None:
    """Refuse texts that no table or page can hold."""
    twin = item.corruption
    changed = (twin.question, twin.answer, twin.context) if twin else ()
    alone = (item.question, item.answer, item.context, item.worked, item.group)
    for text in (*alone, *item.choices, *item.aliases, *changed):
        if text is not None and not is_whole(text):
            raise ValueError(
                f"the text {short_repr(text)} has a null character or half of one (a lone "
                f"surrogate)"
            )


def _is_complete(item: Item) -> bool:
    """True if it has a question, an answer, and options that differ, if it has any."""
    texts = (item.question, item.answer, *item.choices)
    return all(texts) and len(set(item.choices)) == len(item.choices) != 1


def _split_fewshot(
    source: SourceName, benchmark: Benchmark, items: list[Item], fewshot: int | None, seed: int
) -> tuple[list[Item], list[Item]]:
    """Few-shot examples, from their own file or the last rows, and the items that are asked."""
    # Examples are of one part; a task of all parts has none.
    whole = bool(benchmark.part) and not source.arguments
    files = (
        [] if whole or Path(str(source.data)).is_file() else _matching_files(source, benchmark.dev)
    )
    dev = [
        item
        for part, path in files
        for item in filter(_is_complete, _items(source, benchmark, part, path, seed, "dev"))
    ]
    room = len(dev) if dev else 0 if whole else len(items) - 1
    usual = min(benchmark.fewshot, room if dev else room // 2)
    count = usual if fewshot is None else fewshot
    if not 0 <= count <= room:
        named = f", or name a {benchmark.part}" if whole else ""
        raise UserError(
            f"Task {source.label!r} has {count_noun(room, 'row')} for few-shot examples, "
            f"not {count}; "
            f"ask for a number from 0 to {room}{named}."
        )
    kept = len(items) if dev else len(items) - count
    return (dev or items[kept:])[:count], items[:kept]
