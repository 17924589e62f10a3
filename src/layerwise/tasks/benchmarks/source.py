"""Benchmarks from a folder of their files, as tasks.

Which files and which template a benchmark has is in ``table``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from layerwise import stats
from layerwise.errors import UserError, counted, one_line, unknown_name
from layerwise.ground.regular_files import refuse_irregular
from layerwise.tasks._lines import objects, refuse_broken
from layerwise.tasks._source_names import SourceName, read_source_name
from layerwise.tasks.items import Item, chance_of, commonest_answer, repeats_joined
from layerwise.tasks.task import Task, one_line_answers

from .table import BENCHMARKS, N_OPTIONS, Benchmark, Row, mixed

PREFIX = "benchmark"
_MOST_BYTES = 2**30


def matches(name: str) -> bool:
    """Whether a task's name is that of a benchmark."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a benchmark from its files."""
    source, benchmark = _read(name)
    files = _found(source, benchmark.files) or _missing(source, benchmark)
    read = [item for part, path in files for item in _items(source, benchmark, part, path, seed)]
    # The items of each group by turns, so that all have their share of any beginning.
    places: Counter[str | None] = Counter()
    turns = []
    for item in filter(_can_be_asked, read):
        turns.append((places[item.group], item))
        places[item.group] += 1
    kept = [item for _, item in sorted(turns, key=lambda turn: turn[0])]
    if not kept:
        raise UserError(f"Task {name!r} has no item that can be asked; expected one at least.")
    examples, items = _apart(source, benchmark, kept, fewshot, seed)
    # Who writes may give the commonest answer of a group, or a value that a context lists.
    listed = [(item.context or "").count('": "') for item in items]
    stated = sum(1 / n if n else 0.0 for n in listed) / len(items)
    dropped = len(read) - len(kept)
    return Task(
        name=source.label,
        capability=benchmark.capability,
        description=benchmark.description
        + (f"; {counted(dropped, 'row')} left out, with equal options or none" if dropped else ""),
        items=repeats_joined(items),
        fewshot=tuple(examples),
        generate=benchmark.generate or one_line_answers(kept),
        chance=chance_of(items, max(commonest_answer(items), stated)),
        template=benchmark.template,
        source=name,
    )


def _read(name: str) -> tuple[SourceName, Benchmark]:
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


def _missing(source: SourceName, benchmark: Benchmark) -> NoReturn:
    """Refuse a part that is not there, or a folder without the benchmark."""
    parts = _found(replace(source, arguments={}), benchmark.files) if source.arguments else []
    if parts and benchmark.part:
        raise unknown_name(
            benchmark.part, source.arguments[benchmark.part], [part for part, _ in parts]
        )
    expected = " or ".join(pattern.format(part="*") for pattern in benchmark.files)
    raise UserError(
        f"{source.data!r} has no file of {PREFIX}:{source.base}: expected {expected}; give the "
        "folder that has it, or the file, behind data=."
    )


def _found(source: SourceName, patterns: Iterable[str]) -> list[tuple[str, Path]]:
    """The files of the first pattern that matches any, each with the part that it holds."""
    data, part = Path(str(source.data)), next(iter(source.arguments.values()), "*")
    if data.is_file():
        return [(data.stem, data)]
    for folder in (data / source.base, data):
        for pattern in patterns:
            paths = sorted(folder.glob(pattern.format(part=part)))
            if "{part}" not in pattern and len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise UserError(
                    f"Folder {str(folder)!r} has several files of {PREFIX}:{source.base} "
                    f"({names}); expected one, so give its path behind data=."
                )
            if paths:
                return [(path.stem.removesuffix("_test"), path) for path in paths]
    return []


def _items(
    source: SourceName, benchmark: Benchmark, part: str, path: Path, seed: int, split: str = ""
) -> list[Item]:
    """The items of a file, with their ids, and in random order the options that have none."""
    rng = stats.generator(seed, PREFIX, source.base, part, split)
    try:
        made = list(benchmark.items(_rows(path), rng))
    except (LookupError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"File {str(path)!r} is not as {PREFIX}:{source.base} is published "
            f"({type(error).__name__}: {one_line(error)}); expected the authors' own file."
        ) from error
    for number, item in enumerate(made, 1):
        for text in (item.question, item.context, item.answer, *item.choices):
            refuse_broken(str(path), number, "text", text)
    place = "/".join(
        [source.base, *([part] if benchmark.part else []), *([split] if split else [])]
    )
    return [
        replace(
            item,
            id=f"{place}/{number:04d}",
            group=part if benchmark.part else item.group,
            choices=mixed(item.choices, rng) if benchmark.mix else item.choices,
        )
        for number, item in enumerate(made)
    ]


def _rows(path: Path) -> list[Row]:
    if path.suffix == ".jsonl":
        return [row for _, row in objects(str(path))]
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"File {str(path)!r} is larger than 1 GiB; expected less, so cut it.")
    refuse_irregular(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":  # with a header, or without as MMLU is published
            fields = ["question", *(f"choice{place}" for place in range(N_OPTIONS)), "answer"]
            rows = [row for row in csv.reader(file) if row and row != fields]
            return [dict(zip(fields, row, strict=True)) for row in rows]
        read: Any = json.load(file)
    rows = read if isinstance(read, list) else [read]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("a row that is no object")
    return rows


def _can_be_asked(item: Item) -> bool:
    """Whether it has a question, an answer, and options that differ, if it has any."""
    texts = (item.question, item.answer, *item.choices)
    return all(texts) and len(set(item.choices)) == len(item.choices) != 1


def _apart(
    source: SourceName, benchmark: Benchmark, items: list[Item], fewshot: int | None, seed: int
) -> tuple[list[Item], list[Item]]:
    """Few-shot examples, from their own file or the last rows, and the items that are asked."""
    # Examples are of one part; a task of all parts has none.
    whole = bool(benchmark.part) and not source.arguments
    files = [] if whole or Path(str(source.data)).is_file() else _found(source, benchmark.dev)
    dev = [
        item for part, path in files for item in _items(source, benchmark, part, path, seed, "dev")
    ]
    room = len(dev) if dev else 0 if whole else len(items) - 1
    usual = min(benchmark.fewshot, room if dev else room // 2)
    count = usual if fewshot is None else fewshot
    if not 0 <= count <= room:
        named = f", or name a {benchmark.part}" if whole else ""
        raise UserError(
            f"Task {source.label!r} has {counted(room, 'row')} for few-shot examples, not {count}; "
            f"ask for a number from 0 to {room}{named}."
        )
    kept = len(items) if dev else len(items) - count
    return (dev or items[kept:])[:count], items[:kept]
