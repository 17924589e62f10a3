"""Users' own tasks: one question a line of a JSON Lines file, or a row of a CSV or Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from layerwise.errors import UserError, count_noun, short_repr
from layerwise.storage.provenance import IN_MEMORY

from ._lines import bad_line, csv_rows, objects, parquet_rows, some_names
from .items import CAPABILITIES, Capability, Corruption, Item, cluster_repeats, guessing_chance
from .task import Task, Template, one_line_answers

READERS = {".jsonl": objects, ".csv": csv_rows, ".parquet": parquet_rows}
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
# So many rows are set apart as few-shot examples; none in a file of fewer rows than the second.
FEWSHOT, ROWS_FOR_FEWSHOT = 3, 8


class Row(BaseModel):
    """One line of a file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    question: Text
    """The question."""
    answer: Text
    """The right answer, in one line; one of ``choices`` if there are any."""
    choices: list[Text] | None = None
    """At least two options, all different."""
    context: Text | None = None
    """A passage that stands before the question."""
    capability: Capability = "knowledge"
    """The capability that the question tests; the same in the whole file."""
    id: Text | None = None
    """Unique in the file; made from the line's number if left out."""
    cluster: Text | None = None
    """A group of questions about the same thing: they are resampled together."""
    pair: Text | None = None
    """Beside a ``context``: the id of a row in another file that asks the same without it."""
    aliases: list[Text] | None = None
    """Other answers that count as right when the model writes."""
    corrupted_question: Text | None = None
    """The question of the corrupted twin, which patching needs; the row's own if left out."""
    corrupted_context: Text | None = None
    """The passage of the corrupted twin; the row's own if left out."""
    corrupted_answer: Text | None = None
    """The right answer of the corrupted twin."""

    @field_validator("answer", "corrupted_answer", mode="before")
    @classmethod
    def _true_or_false_as_text(cls, answer: Any) -> Any:
        return str(answer).lower() if isinstance(answer, bool) else answer

    @model_validator(mode="after")
    def _answer_can_be_right(self) -> Row:
        if "\n" in self.answer:
            raise ValueError("field 'answer' has a line break; expected one line")
        if self.pair is not None and self.context is None:
            raise ValueError(
                "field 'pair' is there without a 'context'; the row that has the passage names the "
                "other one"
            )
        if self.choices is None:
            return self
        if len(self.choices) < 2:
            raise ValueError(f"field 'choices' has length {len(self.choices)}; expected 2 or more")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("field 'choices' has the same text twice; expected different ones")
        if self.answer not in self.choices:
            raise ValueError(
                f"field 'answer' is {short_repr(self.answer)}; expected one of the choices"
            )
        wrong = [name for name in self.aliases or () if name in {*self.choices} - {self.answer}]
        if wrong:
            raise ValueError(
                f"field 'aliases' has the wrong choice {short_repr(wrong[0])}; remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_twin(self) -> Row:
        changed = (self.corrupted_question, self.corrupted_context)
        if (self.corrupted_answer is None) != (changed == (None, None)):
            raise ValueError(
                "a corrupted twin is not whole; expected 'corrupted_answer' beside "
                "'corrupted_question' or 'corrupted_context'"
            )
        if self.corrupted_context is not None and self.context is None:
            raise ValueError("field 'corrupted_context' is there without a 'context'; add it")
        if self.corrupted_answer in (self.answer, *(self.aliases or ())):
            raise ValueError("field 'corrupted_answer' is right for the row itself; change it")
        return self


def read_rows(path: str) -> list[tuple[int, Row]]:
    """The rows of a file, each with its line number; blank lines are passed over."""
    suffix = _suffix(path)
    rows = [(number, read_row(path, number, value)) for number, value in READERS[suffix](path)]
    if not rows:
        expected = "one JSON object a line" if suffix == ".jsonl" else "one question a row"
        raise UserError(f"File {path!r} is empty; expected {expected}.")
    return rows


def read_row(path: str, number: int, value: dict[str, Any]) -> Row:
    """One row of a file, checked."""
    try:
        return Row.model_validate(value)
    except ValidationError as error:
        raise bad_line(path, number, _sentence(error.errors()[0], value)) from error


def _sentence(error: Any, value: dict[str, Any]) -> str:
    """One of pydantic's errors of a row in words."""
    field = str(error["loc"][0]) if error["loc"] else ""
    known = ", ".join(Row.model_fields)
    match error["type"]:
        case "missing":
            others = some_names(map(short_repr, value))
            beside = f" (there are {others})" if value.keys() - Row.model_fields.keys() else ""
            return f"field {field!r} is missing{beside}; expected a text"
        case "extra_forbidden":
            return f"field {short_repr(field)} is unknown; expected only {known}"
        case "string_too_short":
            return f"field {field!r} is empty; expected a text"
        case "string_type":
            return f"field {field!r} is not a text; put it in quotes"
        case "list_type":
            return f"field {field!r} is not a list; expected texts in square brackets"
        case "literal_error":
            return f"field {field!r} is unknown; expected one of {', '.join(CAPABILITIES)}"
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


def matches(name: str) -> bool:
    """True if a task's name is a path to such a file."""
    return name.endswith(tuple(READERS)) and ":data=" not in name


def task_name(path: str) -> str:
    """Name of the file's task in results: the file's name without its suffix."""
    return Path(path).name.removesuffix(_suffix(path))


def _suffix(path: str) -> str:
    suffix = next((suffix for suffix in READERS if path.endswith(suffix)), None)
    if suffix is None:
        raise UserError(
            f"File {path!r} is of no kind that is read; expected .jsonl, .csv or .parquet."
        )
    return suffix


def load(path: str, seed: int = 0, fewshot: int | None = None) -> Task:
    """Read a task from a file, whose last rows are its few-shot examples."""
    return build_task(path, read_rows(path), fewshot)


def build_task(
    path: str, rows: Sequence[tuple[int, Row]], fewshot: int | None, name: str | None = None
) -> Task:
    """The task that a file's rows make, or rows in memory, which have no path and a name."""
    name = task_name(path) if name is None else name
    capability = rows[0][1].capability
    for number, row in rows:
        if row.capability != capability:
            what = f"field 'capability' is {row.capability!r}, but {capability!r} before"
            raise bad_line(path, number, f"{what}; make one file for each capability")
    items = _items(path, rows, name)
    n = len(items)
    count = (FEWSHOT if n >= ROWS_FOR_FEWSHOT else 0) if fewshot is None else fewshot
    if not 0 <= count < n:
        raise UserError(
            f"{f'File {path!r}' if path else 'The data'} has {count_noun(n, 'row')}, so {count} of "
            f"them cannot be few-shot examples; ask for a number from 0 to {n - 1}."
        )
    split = n - count
    return Task(
        name=name,
        capability=capability,
        description=f"questions from {Path(path).name or 'data in memory'}",
        items=items[:split],
        fewshot=items[split:],
        generate=one_line_answers(items),
        chance=guessing_chance(items[:split]),
        template=Template(question_prefix="Question: ", answer_cue="\nAnswer:"),
        source=path or IN_MEMORY,
    )


def _items(path: str, rows: Sequence[tuple[int, Row]], name: str) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    for number, row in rows:
        identity = row.id or f"{name}/{number:04d}"
        if identity in items:
            what = f"field 'id' is {short_repr(identity)}, which an earlier line has"
            raise bad_line(path, number, f"{what}; make it unique")
        items[identity] = Item(
            id=identity,
            question=row.question,
            answer=row.answer,
            choices=tuple(row.choices or _yes_or_no(row.answer)),
            context=row.context,
            cluster=row.cluster,
            pair=row.pair,
            aliases=tuple(row.aliases or ()),
            corruption=Corruption(
                row.corrupted_question or row.question,
                row.corrupted_answer,
                row.corrupted_context or row.context,
            )
            if row.corrupted_answer is not None
            else None,
        )
    return cluster_repeats(list(items.values()))


def _yes_or_no(answer: str) -> tuple[str, ...]:
    """The choices of a yes-no or true-false question, spelled as its answer is; none of others."""
    for pair in (("yes", "no"), ("true", "false")):
        for spell in (str.lower, str.capitalize, str.upper):
            both = tuple(map(spell, pair))
            if answer in both:
                return both
    return ()
