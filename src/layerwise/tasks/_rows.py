"""Lines of a user's JSON Lines file, read and checked one by one.

What is wrong is told with the line's number and the field; tasks are made in ``jsonl``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from layerwise.errors import UserError, shown
from layerwise.tasks._lines import bad_line as bad_line
from layerwise.tasks._lines import objects
from layerwise.tasks.items import CAPABILITIES, Capability

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Row(BaseModel):
    """One line of a file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    question: Text
    """What is asked."""
    answer: Text
    """The right answer, in one line; one of ``choices`` if there are any."""
    choices: list[Text] | None = None
    """At least two options, all different."""
    context: Text | None = None
    """A passage that stands before the question."""
    capability: Capability = "knowledge"
    """What the question asks for; the same in the whole file."""
    id: Text | None = None
    """Unique in the file; made from the line's number if left out."""
    cluster: Text | None = None
    """What several questions ask for alike: they are resampled together."""
    pair: Text | None = None
    """Beside a ``context``: the id of a row in another file that asks the same without it."""

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
            raise ValueError(f"field 'answer' is {shown(self.answer)}; expected one of the choices")
        return self


def read_rows(path: str) -> list[tuple[int, Row]]:
    """The rows of a file, each with its line number; blank lines are passed over."""
    rows = [(number, _row(path, number, value)) for number, value in objects(path)]
    if not rows:
        raise UserError(f"File {path!r} is empty; expected one JSON object a line.")
    return rows


def _row(path: str, number: int, value: dict[str, Any]) -> Row:
    try:
        return Row.model_validate(value)
    except ValidationError as error:
        raise bad_line(path, number, _sentence(error.errors()[0])) from error


def _sentence(error: Any) -> str:
    """One of pydantic's errors in words."""
    field = str(error["loc"][0]) if error["loc"] else ""
    known = ", ".join(Row.model_fields)
    match error["type"]:
        case "missing":
            return f"field {field!r} is missing; expected a text"
        case "extra_forbidden":
            return f"field {shown(field)} is unknown; expected only {known}"
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
