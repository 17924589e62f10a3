"""From prompts that were looked at to a task that can be tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from layerwise.errors import UserError, short_repr, unknown_name
from layerwise.ground.argument_types import known_name_validator
from layerwise.ground.arguments import check_arguments
from layerwise.storage.provenance import IN_MEMORY
from layerwise.tasks.items import CAPABILITIES, Corruption, Item, cluster_repeats, guessing_chance
from layerwise.tasks.task import Task, Template, one_line_answers

from .texts import Rows

_FIELDS = ("prompt", "answer", "wrong", "corrupted", "corrupted_answer")


@check_arguments()
def task_from_prompts(
    prompts: Rows,
    *,
    name: str = "prompts",
    capability: Annotated[str, known_name_validator("capability", CAPABILITIES)] = "knowledge",
) -> Task:
    """Make a task of prompts and their answers, to test what a look at them suggested.

    Args:
        prompts: a dictionary each: ``prompt`` and ``answer``, and as far as known ``wrong`` (one
            other answer or several), ``corrupted`` (the prompt with other words) and
            ``corrupted_answer`` (its right answer; the first wrong one if left out).
        name: of the task.
        capability: ``retrieval``, ``knowledge``, ``reasoning`` or ``coherence``.

    Returns:
        A task for ``ablate``, ``logit_lens`` and, with corrupted prompts, ``patch_activations``.
        Some twenty prompts are needed before a test can show anything.

    Raises:
        UserError: for a field that is missing, unknown or empty, or answers of which some begin
            with a space and others do not.

    Examples:
        >>> import layerwise as lw
        >>> task = lw.task_from_prompts([
        ...     {"prompt": "The capital of France is", "answer": " Paris", "wrong": " Rome",
        ...      "corrupted": "The capital of Italy is"},
        ... ])
        >>> task.items[0].corruption.answer
        'Rome'
    """
    if not prompts:
        raise UserError("There are no prompts: expected at least one; write some.")
    read = [_row(number, one) for number, one in enumerate(prompts)]
    spaced = {one.startswith(" ") for row in read for one in (row["answer"], *row["wrong"])}
    if len(spaced) > 1:
        raise UserError(
            "Some answers begin with a space and others do not: expected all or none to, as they "
            "follow their prompts; write them alike."
        )
    items = cluster_repeats([_item(name, number, row) for number, row in enumerate(read)])
    return Task(
        name=name,
        capability=capability,  # type: ignore[arg-type]
        description="prompts that were written by hand",
        items=items,
        fewshot=(),
        generate=one_line_answers(items),
        chance=guessing_chance(items),
        template=Template(delimiter=" " if spaced == {True} else ""),
        source=IN_MEMORY,
    )


def _row(number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one prompt."""
    for field in given:
        if field not in _FIELDS:
            raise unknown_name(f"field of prompt {number}", field, _FIELDS)
    wrong = given.get("wrong") or ()
    row = {**given, "wrong": (wrong,) if isinstance(wrong, str) else tuple(wrong)}
    texts = [("prompt", row.get("prompt")), ("answer", row.get("answer"))]
    texts += [("wrong", one) for one in row["wrong"]]
    texts += [(name, row[name]) for name in ("corrupted", "corrupted_answer") if name in row]
    for field, value in texts:
        if not isinstance(value, str) or not value.strip():
            raise UserError(
                f"Field {field!r} of prompt {number} is {short_repr(value)}: expected a "
                f"text; write one."
            )
    if "corrupted" in row and not (row["wrong"] or "corrupted_answer" in row):
        raise UserError(
            f"Prompt {number} has a corrupted one without an answer: expected 'corrupted_answer', "
            "or 'wrong'; name what is right there."
        )
    return row


def _item(name: str, number: int, row: Mapping[str, Any]) -> Item:
    answer, wrong = row["answer"].strip(), [one.strip() for one in row["wrong"]]
    options = [answer, *wrong]
    if len(set(options)) < len(options):
        raise UserError(
            f"Prompt {number} has the answer {answer!r} and {wrong} as wrong ones: expected "
            "different texts; change one."
        )
    place = number % len(options)  # the right one is not always first
    choices = tuple([*wrong[:place], answer, *wrong[place:]]) if wrong else ()
    change = None
    if "corrupted" in row:
        other = row.get("corrupted_answer", row["wrong"][0] if row["wrong"] else "")
        change = Corruption(row["corrupted"].rstrip(), other.strip())
    return Item(
        f"{name}/{number:04d}", row["prompt"].rstrip(), answer, choices, corruption=change
    )  # fmt: skip
