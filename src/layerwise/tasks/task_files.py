"""Task files: other words, examples or extractors for items that another source has (``.toml``).

What the fields do is in ``Template``, ``GenerateSpec`` and ``Task``; items come from any name
that ``load_task`` knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from layerwise.errors import UserError, one_line, short_repr
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError
from layerwise.ground.regular_files import open_regular

from . import harness, jsonl
from ._lines import MOST_BYTES_A_LINE
from ._own import check_own_task
from .task import GenerateSpec, Task, Template, take

SUFFIX = ".toml"
_TEMPLATE = [field.name for field in fields(Template)]
_GENERATE = [field.name for field in fields(GenerateSpec)]
# Texts and comments of TOML, also those that nothing ends: what is left are keys and numbers.
_TEXTS = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\\?\Z)'
    r"|'{3}.*?(?:'{3}|\Z)"
    r'|"(?:[^"\\\n]|\\[^\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
_MOST_DOTS_A_LINE = 20


class TaskFile(BaseModel):
    """The fields of a task file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    task: str
    """Whose items are asked: a name or a path, from the file's folder or the current one."""
    fewshot: str | None = None
    """A file of few-shot examples, with the fields of a user's own questions."""
    system: str | None = None
    """The system prompt of chat models."""
    question_prefix: str | None = None
    answer_cue: str | None = None
    delimiter: str | None = None
    answer_end: str | None = None
    separator: str | None = None
    context_end: str | None = None
    stop: list[str] | None = None
    max_tokens: int | None = None
    extractor: str | None = None


def matches(name: str) -> bool:
    """True if a task's name is a path to a task file."""
    return name.endswith(SUFFIX) and ":" not in name.removeprefix(Path(name).drive)


def task_name(path: str) -> str:
    """Name of its task in results: the file's name without its suffix."""
    return Path(path).name.removesuffix(SUFFIX)


def load(path: str, seed: int, fewshot: int | None, load_other: Callable[..., Task]) -> Task:
    """The task that a file describes, of the items that ``load_other`` makes of its name."""
    read = _read_file(path)
    if matches(read.task):
        raise UserError(
            f"File {path!r}: 'task' is {short_repr(read.task)}, another task file; "
            f"expected the name or "
            "the path of its items."
        )
    name = _neighbor_file(path, read.task)
    if harness.matches(name) and harness.is_trusted(name):
        raise UserError(
            f"File {path!r}: 'task' says trust=yes, which only your command can; leave it out "
            "there, and ask for the task itself to run its code."
        )
    own = read.fewshot is not None
    count = 0 if own else fewshot
    task = load_other(name, seed=seed, fewshot=count)
    if read.fewshot is not None:
        # Their ids are apart from those of the items.
        file = _neighbor_file(path, read.fewshot)
        shown_items = jsonl.build_task(file, jsonl.read_rows(file), 0).items
        examples = tuple(replace(item, id=f"example/{item.id}") for item in shown_items)
        task = replace(task, fewshot=examples, other_fewshot=())
    given = read.model_dump(exclude_none=True)
    if read.stop is not None:
        given["stop"] = tuple(read.stop)
    template = {name: given[name] for name in _TEMPLATE if name in given}
    generate = {name: given[name] for name in _GENERATE if name in given}
    if template or own:
        # Turns that items bring along have other words and examples.
        task = replace(task, items=tuple(replace(item, turns=()) for item in task.items))
    described = replace(
        task,
        name=task_name(path),
        template=replace(task.template, **template),
        generate=replace(task.generate, **generate),
        judge=None if read.extractor else task.judge,
        system=read.system or task.system,
        source=path,
    )
    try:
        return take(check_own_task(described), None, fewshot if own else None)
    except UserError as error:
        raise UserError(f"File {path!r}: {error}") from error


def _read_file(path: str) -> TaskFile:
    try:
        with open_regular(Path(path)) as file:
            content = file.read(MOST_BYTES_A_LINE + 1)
        if len(content) > MOST_BYTES_A_LINE:
            raise UserError(f"File {path!r} is larger than 1 MiB; expected a small task file.")
        text = content.decode("utf-8-sig")
        _refuse_deep_keys(path, text)
        read = LimitedProcess("read_toml").ask(text, len(content))
        return TaskFile.model_validate(read)
    except (OSError, UnicodeDecodeError, JobError, OverLimitError) as error:
        over = isinstance(error, OverLimitError)
        reason = getattr(error, "strerror", None) or f"{'more than ' * over}{one_line(error)}"
        raise UserError(
            f"File {path!r} cannot be read ({reason.removeprefix('TOMLDecodeError: ')}); expected "
            'a task file in TOML, with task = "mine.jsonl" at least.'
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"File {path!r}, field {short_repr(field)}: {first['msg'].lower()}; expected only "
            f"{', '.join(TaskFile.model_fields)}."
        ) from error


def _refuse_deep_keys(path: str, text: str) -> None:
    """Refuse keys of many parts, before a parser needs gigabytes for them."""
    without_texts = _TEXTS.sub(lambda found: "\n" * found[0].count("\n"), text)
    for number, line in enumerate(without_texts.split("\n"), start=1):
        if line.count(".") > _MOST_DOTS_A_LINE:
            raise UserError(
                f"File {path!r}, line {number}: a key of {line.count('.') + 1:,} parts; expected "
                f"only {', '.join(TaskFile.model_fields)}."
            )


def _neighbor_file(path: str, name: str) -> str:
    """A file beside the task file, if there is one of that name."""
    beside = Path(path).parent / name
    try:  # what is no ordinary file is refused by who reads it
        there = beside.exists() and not beside.is_dir()
    except OSError:  # no name of a file
        there = False
    return str(beside) if there else name
