"""Users' own tasks: one question a line of a JSON Lines file.

How lines are checked is in ``_rows``; what the questions are asked like, in ``protocols``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from layerwise.errors import UserError, counted, shown
from layerwise.tasks._rows import Row, bad_line, read_rows
from layerwise.tasks.items import Capability, Item, repeats_joined
from layerwise.tasks.task import GenerateSpec, Task, Template

FEWSHOT = 3
"""So many rows are set apart as few-shot examples, if the file has enough of them."""
ROWS_FOR_FEWSHOT = 8
"""With fewer rows than this, every one is a question and none an example."""


def matches(name: str) -> bool:
    """Whether a task's name is a path to such a file."""
    return name.endswith(".jsonl")


def task_name(path: str) -> str:
    """What the file's task is called in results: the file's name without ``.jsonl``."""
    return Path(path).name.removesuffix(".jsonl")


def load(path: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a task from a JSON Lines file.

    The last rows are set apart as few-shot examples: 3 of them, or none in a file of fewer
    than 8 rows. A free answer is the first line that is generated.
    """
    rows = read_rows(path)
    capability = _capability(path, rows)
    items = _items(path, rows)
    split = len(items) - _fewshot_count(path, len(items), fewshot)
    return Task(
        name=task_name(path),
        capability=capability,
        description=f"questions from {Path(path).name}",
        items=items[:split],
        fewshot=items[split:],
        generate=GenerateSpec(("\n",), _max_tokens(items), "first_line"),
        chance=_chance(items[:split]),
        template=Template(question_prefix="Question: ", answer_cue="\nAnswer:"),
        source=path,
    )


def _fewshot_count(path: str, rows: int, asked: int | None) -> int:
    count = (FEWSHOT if rows >= ROWS_FOR_FEWSHOT else 0) if asked is None else asked
    if not 0 <= count < rows:
        raise UserError(
            f"File {path!r} has {counted(rows, 'row')}, so {count} of them cannot be few-shot "
            f"examples; ask for a number from 0 to {rows - 1}."
        )
    return count


def _capability(path: str, rows: Sequence[tuple[int, Row]]) -> Capability:
    first = rows[0][1].capability
    for number, row in rows:
        if row.capability != first:
            what = f"field 'capability' is {row.capability!r}, but {first!r} before"
            raise bad_line(path, number, f"{what}; make one file for each capability")
    return first


def _items(path: str, rows: Sequence[tuple[int, Row]]) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    for number, row in rows:
        identity = row.id or f"{task_name(path)}/{number:04d}"
        if identity in items:
            what = f"field 'id' is {shown(identity)}, which an earlier line has"
            raise bad_line(path, number, f"{what}; make it unique")
        items[identity] = Item(
            id=identity,
            question=row.question,
            answer=row.answer,
            choices=tuple(row.choices or ()),
            context=row.context,
            cluster=row.cluster,
            pair=row.pair,
        )
    return repeats_joined(list(items.values()))


def _max_tokens(items: Sequence[Item]) -> int:
    # Before a tokenizer is known: a token is seldom under two bytes of text, digits apart.
    longest = max(len(item.answer.encode()) for item in items)
    return 8 + longest // 2


def _chance(items: Sequence[Item]) -> dict[str, float]:
    """Guessing among the choices; under ``generate``, always giving the commonest answer.

    With n answers that are all different the latter is 1/n: such a guesser knows the file's
    answers, but not which question each belongs to.
    """
    answers = Counter(item.answer.casefold() for item in items)
    chance = {"generate": max(answers.values()) / len(items)}
    if all(item.choices for item in items):
        share = sum(1 / len(item.choices) for item in items) / len(items)
        chance |= {"letter": share, "continuation": share}
    return chance
