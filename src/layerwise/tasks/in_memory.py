"""Tasks of data in memory: a list of rows, a table of pandas, a data set of Hugging Face.

Rows are mapped to questions as those of files are (``columns``), and read by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from layerwise.errors import UserError, one_line, short_repr
from layerwise.ground.argument_types import ExpectedWords, Whole, known_name_validator
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import Reads, entries, plain, refuse

from ._lines import bad_line, is_whole, some_names
from ._own import check_own_task
from .columns import MappedRow, read_options, read_text, with_right_answers
from .items import CAPABILITIES
from .jsonl import build_task, read_row
from .right_option import READINGS
from .task import Task

_ROWS = "rows: a list of dictionaries, a DataFrame of pandas, or a Dataset of Hugging Face"
Field = str | Callable[[Mapping[str, Any]], Any]
"""A column, or a function of a row."""


def read_data(name: str, value: Any) -> list[Mapping[str, Any]]:
    """Read rows of whatever holds them."""
    if isinstance(value, Mapping):  # a DatasetDict, too
        columns = some_names(map(short_repr, value))
        raise UserError(
            f"Argument {name!r} is a {type(value).__name__} of {columns}: "
            f"expected {_ROWS}; take a split of it, or make a DataFrame of its columns."
        )
    if hasattr(value, "iloc") and hasattr(value, "columns"):  # without importing pandas
        twice = value.columns[value.columns.duplicated()]
        if len(twice):
            raise UserError(
                f"Argument {name!r} has the column {short_repr(twice[0])} twice: expected each "
                "once; rename one."
            )
        value = value.to_dict("records")
    rows = entries(name, value, _ROWS)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(
                f"Row {number} of the data (from 0) is {short_repr(row)}, in argument {name!r}; "
                f"expected {_ROWS}."
            )
    if not rows:
        raise refuse(name, value, f"{_ROWS}, with one row at least")
    return rows


def read_field(name: str, value: Any) -> Any:
    """Read a column, or a function of a row."""
    if callable(value) and not isinstance(value, type):
        return value
    if not isinstance(value, str) or not value:
        raise refuse(name, value, "the name of a column, or a function of a row")
    return str(value)


def read_choices(name: str, value: Any) -> Any:
    """Read one column of lists, several columns, or a function of a row."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return list(value)
    if isinstance(value, (list, tuple)):
        raise refuse(name, value, "a column of lists, a list of columns, or a function of a row")
    return read_field(name, value)


AnyField = Annotated[Field, Reads(read_field, "str | Callable")]
AnyChoices = Annotated[Field | Sequence[str], Reads(read_choices, "str | Sequence[str] | Callable")]
Data = Annotated[Sequence[Mapping[str, Any]], Reads(read_data, "Sequence[Mapping] | DataFrame")]


@check_arguments()
def task_from(
    dataset: Data,
    *,
    question: AnyField = "question",
    answer: AnyField = "answer",
    choices: AnyChoices | None = None,
    context: AnyField | None = None,
    answer_is: Annotated[str, known_name_validator("way to read answers", READINGS)] | None = None,
    capability: Annotated[str, known_name_validator("capability", CAPABILITIES)] = "knowledge",
    name: Annotated[str, ExpectedWords("a text", "'mine'")] = "data",
    fewshot: Whole | None = None,
) -> Task:
    """Make a task of data in memory, which every analysis takes as it takes a suite.

    Each field is the name of a column or a function of a row (a dictionary). The task's hash is of
    its content: a saved run goes on with the same rows, and is refused with others.

    Args:
        dataset: a list of dictionaries, a ``DataFrame`` of pandas or a ``Dataset`` of Hugging
            Face; a row is a question.
        question: what is asked; a text or a number.
        answer: the right answer in one line; with ``choices`` the text, label (A, B, ...) or place
            from 0 of one of them, as all rows have it.
        choices: a column of lists, or of texts with their labels (``{"text": [...], "label":
            [...]}``); a list of columns, one option each; or a function that gives a list. Without
            it the model can only write its answer.
        context: a passage before the question; none where the cell is empty.
        answer_is: ``text``, ``label`` or ``place``, where answers could be read in two ways.
        capability: ``retrieval``, ``knowledge``, ``reasoning`` or ``coherence``.
        name: of the task in tables.
        fewshot: so many last rows become the worked examples; of 8 rows or more 3 if None, else
            none.

    Returns:
        A task, for ``tasks=`` of every function.

    Raises:
        UserError: names the row, if a cell is empty, no text or no number, if an answer names no
            choice or could name two, if choices repeat, or a function raises.

    Examples:
        >>> import layerwise as lw
        >>> rows = [{"q": "Which river is in Vienna?", "options": ["Po", "Danube"], "right": 1}]
        >>> task = lw.task_from(rows, question="q", choices="options", answer="right")
        >>> task.items[0].answer
        'Danube'
    """
    if not name.strip() or "/" in name:
        raise UserError(
            f"Argument 'name' is {short_repr(name)}; expected a text without a slash, as it begins "
            "the ids of items; choose another."
        )
    fields: dict[str, Any] = {"question": question, "answer": answer}
    fields |= {} if context is None else {"context": context}
    given = [_map_row(number, row, fields, choices) for number, row in enumerate(dataset)]
    rows = [
        (one.line, read_row(one.path, one.line, {**texts, "capability": capability}))
        for one, texts in with_right_answers(given, answer_is)
    ]
    return check_own_task(build_task("", rows, fewshot, name))


def _map_row(
    number: int, row: Mapping[str, Any], fields: Mapping[str, Any], choices: Any
) -> MappedRow:
    """One row's texts by field."""
    texts: dict[str, Any] = {}
    for field, of in fields.items():
        value = _value(number, row, field, of)
        if field == "context" and _is_missing(value):
            continue
        texts[field] = _text(number, _what(field, of), value)
    if choices is None:
        return MappedRow("", number, texts, None)
    what = _what("choices", choices)
    if isinstance(choices, list):
        listed: Any = [_value(number, row, "choices", one) for one in choices]
    else:
        listed = _as_list(_value(number, row, "choices", choices))
    options, labels = read_options("", number, what, listed)
    for text in (*options, *(labels or ())):
        _text(number, what, text)
    return MappedRow("", number, {**texts, "choices": options}, labels)


def _what(field: str, of: Any) -> str:
    """Words for a field, or for the column that it is read from."""
    if isinstance(of, str) and of != field:
        return f"column {short_repr(of)} ({field})"
    return f"field {field!r}"


def _value(number: int, row: Mapping[str, Any], field: str, of: Field) -> Any:
    """The value of a field in a row."""
    if isinstance(of, str):
        if of not in row:
            columns = some_names(map(short_repr, row))
            raise bad_line(
                "", number, f"no column {short_repr(of)} ({field}); its columns are {columns}"
            )
        return plain(row[of])
    try:
        return plain(of(row))
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        what = f"the function of {field!r} raised {reason}; expected it to give a text of each row"
        raise bad_line("", number, what) from error


def _text(number: int, what: str, value: Any) -> str:
    """A text of a cell that must not be empty."""
    if _is_missing(value):
        raise bad_line("", number, f"{what} is empty; expected a text or a number")
    text = read_text("", number, what, value)
    if not text.strip():
        raise bad_line("", number, f"{what} is empty; expected a text or a number")
    if not is_whole(text):
        what = f"{what} has a null character or half of one (a lone surrogate)"
        raise bad_line("", number, f"{what}; expected a text of whole characters")
    return text


def _is_missing(value: Any) -> bool:
    """True of what tables have in empty cells: None, NaN, ``NA`` and ``NaT`` of pandas."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _as_list(value: Any) -> Any:
    """Options as lists, where an array, a tuple or a series holds them."""
    if isinstance(value, Mapping):
        return {key: _as_list(one) for key, one in value.items()}
    listed = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(listed, (list, tuple)):
        return value
    return [None if _is_missing(one) else plain(one) for one in listed]
