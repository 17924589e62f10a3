"""Benchmarks in the files that their authors publish: ``benchmark:gsm8k:data=FOLDER``.

How a row becomes an item is in ``_benchmark_rows``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from layerwise import stats
from layerwise.errors import UserError, counted, one_line, unknown_name

from . import _benchmark_rows as rows_of
from ._benchmark_rows import Row
from ._lines import objects
from ._source_names import SourceName, read_source_name
from .items import Capability, Item, repeats_joined
from .jsonl import room_for
from .task import GenerateSpec, Task, Template

PREFIX = "benchmark"
_QUESTION = Template(question_prefix="Question: ", answer_cue="\nAnswer:")
_FACT = Template(separator="\n")
# Five answers of Hendrycks et al. 2021 and Cobbe et al. 2021; lm-evaluation-harness has as many.
_FIVE = 5

Items = Callable[[Sequence[Row], np.random.Generator], Iterator[Item]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its items stand in a folder, and how they are put to a model.

    Attributes:
        capability: what its items ask for.
        description: one line.
        files: patterns of its file, of which the first that matches is read; ``{part}`` stands
            for a part.
        items: makes items of a file's rows.
        part: the argument that names one of its parts, such as ``subject``.
        dev: patterns of the file of its few-shot examples; without, they are its last rows.
        fewshot: how many examples it has if nobody says.
        template: what stands around a question.
        generate: how it is written; None for one line.
        mix: whether its file has the right option at a fixed place.
    """

    capability: Capability
    description: str
    files: tuple[str, ...]
    items: Items
    part: str | None = None
    dev: tuple[str, ...] = ()
    fewshot: int = 0
    template: Template = _QUESTION
    generate: GenerateSpec | None = None
    mix: bool = False


def _each(item: Callable[[Row], Item]) -> Items:
    """A reader of rows that knows one row at a time."""
    return lambda rows, _: map(item, rows)


def _key_values(rows: Sequence[Row], rng: np.random.Generator) -> Iterator[Item]:
    return (rows_of.key_value(row, rng) for row in rows)


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "reasoning", "grade-school word problems, worked out (Cobbe et al. 2021)",
        ("test.jsonl",), _each(rows_of.gsm8k), dev=("train.jsonl",), fewshot=_FIVE,
        generate=GenerateSpec(("Question:",), 256, "final_number"),
    ),
    "svamp": Benchmark(
        "reasoning", "one-step word problems (Patel et al. 2021)",
        ("SVAMP.json",), _each(rows_of.svamp), fewshot=_FIVE,
        generate=GenerateSpec(("\n",), 16, "final_number"),
    ),
    "mathqa": Benchmark(
        "reasoning", "maths problems with five options (Amini et al. 2019)",
        ("test.json",), _each(rows_of.mathqa),
    ),
    "mmlu": Benchmark(
        "knowledge", "exam questions of many subjects (Hendrycks et al. 2021)",
        ("test/{part}_test.csv", "test/{part}.csv"), _each(rows_of.mmlu), part="subject",
        dev=("dev/{part}_dev.csv", "dev/{part}.csv"), fewshot=_FIVE,
    ),
    "openbookqa": Benchmark(
        "knowledge", "elementary science questions (Mihaylov et al. 2018)",
        ("test.jsonl", "Main/test.jsonl", "test.json"), _each(rows_of.openbookqa),
        template=Template(),
    ),
    "truthfulqa": Benchmark(
        "knowledge", "one true answer among common errors, mc1 (Lin et al. 2022)",
        ("mc_task.json",), _each(rows_of.truthfulqa), mix=True,
        template=Template(question_prefix="Q: ", answer_cue="\nA:"),
    ),
    "hellaswag": Benchmark(
        "coherence", "which ending continues a text (Zellers et al. 2019)",
        ("hellaswag_val.jsonl", "validation*.jsonl"), _each(rows_of.hellaswag),
        template=Template(),
    ),
    "kv_retrieval": Benchmark(
        "retrieval", "pairs of identifiers, one looked up (Liu et al. 2023)",
        ("kv-retrieval-*.jsonl",), _key_values,
        # Behind a quotation mark, so that answers do not all begin with the same token.
        template=Template(
            answer_cue='\nCorresponding value: "', delimiter="", answer_end='"', context_end="\n\n"
        ),
    ),
    "known_1000": Benchmark(
        "knowledge", "facts that GPT-2 XL knows (Meng et al. 2022)",
        ("known_1000.json",), rows_of.known_facts, fewshot=_FIVE, template=_FACT,
    ),
    "relations": Benchmark(
        "knowledge", "subjects and objects of relations (Hernandez et al. 2024)",
        ("*/{part}.json", "{part}.json", "{part}/*.json"), rows_of.relation, part="relation",
        fewshot=_FIVE, template=_FACT,
    ),
}  # fmt: skip


def matches(name: str) -> bool:
    """Whether a task's name is that of a benchmark."""
    return name.startswith(f"{PREFIX}:")


def load(name: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a benchmark from its files."""
    asked, benchmark = _read(name)
    found = _found(asked, benchmark.files) or _missing(asked, benchmark)
    read = [one for part, path in found for one in _items(asked, benchmark, part, path, seed)]
    kept = _by_turns([item for item in read if _can_be_asked(item)])
    if not kept:
        raise UserError(f"Task {name!r} has no item that can be asked; expected one at least.")
    examples, items = _apart(asked, benchmark, kept, fewshot, seed)
    dropped = len(read) - len(kept)
    return Task(
        name=asked.label,
        capability=benchmark.capability,
        description=benchmark.description
        + (f"; {counted(dropped, 'row')} left out, with equal options or none" if dropped else ""),
        items=repeats_joined(items),
        fewshot=tuple(examples),
        generate=benchmark.generate or GenerateSpec(("\n",), room_for(kept), "first_line"),
        chance=_chance(items),
        template=benchmark.template,
        source=name,
    )


def _read(name: str) -> tuple[SourceName, Benchmark]:
    base = name.split(":")[1]
    if base not in BENCHMARKS:
        raise unknown_name("benchmark", base, BENCHMARKS)
    benchmark = BENCHMARKS[base]
    asked = read_source_name(name, [benchmark.part] if benchmark.part else [])
    if asked.data is None:
        raise UserError(
            f"Task {name!r} does not say where its files are; expected the folder behind data=, "
            f"such as {name}:data=FOLDER."
        )
    return asked, benchmark


def _missing(asked: SourceName, benchmark: Benchmark) -> NoReturn:
    """Refuse a part that is not there, or a folder without the benchmark."""
    parts = _found(replace(asked, arguments={}), benchmark.files) if asked.arguments else []
    if parts and benchmark.part:
        raise unknown_name(
            benchmark.part, asked.arguments[benchmark.part], [part for part, _ in parts]
        )
    expected = " or ".join(one.format(part="*") for one in benchmark.files)
    raise UserError(
        f"{asked.data!r} has no file of {PREFIX}:{asked.base}: expected {expected}; give the "
        "folder that has it, or the file, behind data=."
    )


def _found(asked: SourceName, patterns: Iterable[str]) -> list[tuple[str, Path]]:
    """The files of the first pattern that matches any, each with the part that it holds."""
    data, part = Path(str(asked.data)), next(iter(asked.arguments.values()), "*")
    if data.is_file():
        return [(data.stem, data)]
    for folder in (data / asked.base, data):
        for pattern in patterns:
            paths = sorted(folder.glob(pattern.format(part=part)))
            if "{part}" not in pattern and len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise UserError(
                    f"Folder {str(folder)!r} has several files of {PREFIX}:{asked.base} ({names}); "
                    "expected one, so give its path behind data=."
                )
            if paths:
                return [(path.stem.removesuffix("_test"), path) for path in paths]
    return []


def _items(
    asked: SourceName, benchmark: Benchmark, part: str, path: Path, seed: int, split: str = ""
) -> list[Item]:
    """The items of a file, with their ids, and in random order the options that have none."""
    rng = stats.generator(seed, PREFIX, asked.base, part, split)
    try:
        made = list(benchmark.items(_rows(path), rng))
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"File {str(path)!r} is not as {PREFIX}:{asked.base} is published "
            f"({type(error).__name__}: {one_line(error)}); expected the authors' own file."
        ) from error
    place = "/".join([asked.base, *([part] if benchmark.part else []), *([split] if split else [])])
    return [
        replace(
            item,
            id=f"{place}/{number:04d}",
            group=part if benchmark.part else item.group,
            choices=rows_of.mixed(item.choices, rng) if benchmark.mix else item.choices,
        )
        for number, item in enumerate(made)
    ]


def _rows(path: Path) -> list[Row]:
    if path.suffix == ".jsonl":
        return [row for _, row in objects(str(path))]
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            return list(_csv_rows(file))
        read: Any = json.load(file)
    return read if isinstance(read, list) else [read]


def _csv_rows(file: Iterable[str]) -> Iterator[Row]:
    """Rows of a table with a header, or of one that has none, as MMLU is published."""
    fields = ["question", *(f"choice{place}" for place in range(rows_of.N_OPTIONS)), "answer"]
    for row in csv.reader(file):
        if row and row != fields:
            yield dict(zip(fields, row, strict=True))


def _can_be_asked(item: Item) -> bool:
    """Whether it has a question, an answer, and options that differ, if it has any."""
    texts = (item.question, item.answer, *item.choices)
    return all(texts) and len(set(item.choices)) == len(item.choices) != 1


def _by_turns(items: Sequence[Item]) -> list[Item]:
    """The items of each group by turns, so that all have their share of any beginning."""
    places: Counter[str | None] = Counter()
    turn = {}
    for item in items:
        turn[item.id] = places[item.group]
        places[item.group] += 1
    return sorted(items, key=lambda item: turn[item.id])


def _apart(
    asked: SourceName, benchmark: Benchmark, items: list[Item], fewshot: int | None, seed: int
) -> tuple[list[Item], list[Item]]:
    """Few-shot examples, from their own file or the last rows, and the items that are asked."""
    # Examples are of one part; a task of all parts has none.
    whole = bool(benchmark.part) and not asked.arguments
    files = [] if whole or Path(str(asked.data)).is_file() else _found(asked, benchmark.dev)
    dev = [one for part, path in files for one in _items(asked, benchmark, part, path, seed, "dev")]
    room = len(dev) if dev else 0 if whole else len(items) - 1
    usual = min(benchmark.fewshot, room if dev else room // 2)
    count = usual if fewshot is None else fewshot
    if not 0 <= count <= room:
        named = f", or name a {benchmark.part}" if whole else ""
        raise UserError(
            f"Task {asked.label!r} has {counted(room, 'row')} for few-shot examples, not {count}; "
            f"ask for a number from 0 to {room}{named}."
        )
    kept = len(items) if dev else len(items) - count
    return (dev or items[kept:])[:count], items[:kept]


def _chance(items: Sequence[Item]) -> dict[str, float]:
    """Guessing among the options; writing, the commonest answer of the group or any listed one."""
    answers: dict[str | None, Counter[str]] = defaultdict(Counter)
    for item in items:
        answers[item.group][item.answer.casefold()] += 1
    commonest = sum(max(group.values()) for group in answers.values()) / len(items)
    listed = sum(_listed(item) for item in items) / len(items)
    chance = {"generate": max(commonest, listed)}
    if all(item.choices for item in items):
        share = sum(1 / len(item.choices) for item in items) / len(items)
        chance |= {"letter": share, "continuation": share}
    return chance


def _listed(item: Item) -> float:
    """How often one of the values that the context lists is the answer."""
    return 1 / item.context.count('": "') if item.context else 0.0
