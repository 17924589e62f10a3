"""Prompt texts: a task's few-shot examples and one item, as each protocol shows them.

Tokens and scores are the business of ``protocols``.
"""

from __future__ import annotations

from layerwise.tasks.items import Item
from layerwise.tasks.task import Task, Template

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_CUE = "\nAnswer:"
LETTER_DELIMITER = " "
LETTER_SEPARATOR = "\n\n"


def open_prompt(task: Task, item: Item) -> str:
    """Few-shot examples with their answers, then the item up to where its answer begins.

    This is the context of ``continuation`` and of ``generate``.
    """
    before = "".join(
        _answered(task.template, example) + task.template.answer_end + task.template.separator
        for example in task.fewshot
    )
    return before + _open_question(task.template, item)


def letter_prompt(task: Task, item: Item) -> str:
    """The same with lettered options; the few-shot answers are letters."""
    before = "".join(
        _lettered_with_answer(task.template, example) + LETTER_SEPARATOR for example in task.fewshot
    )
    return before + _lettered(task.template, item)


def _question(template: Template, item: Item) -> str:
    context = item.context + template.context_end if item.context is not None else ""
    return context + template.question_prefix + item.question


def _open_question(template: Template, item: Item) -> str:
    return _question(template, item) + template.answer_cue


def _answered(template: Template, example: Item) -> str:
    answer = example.worked or example.answer
    return _open_question(template, example) + template.delimiter + answer


def _lettered_with_answer(template: Template, example: Item) -> str:
    letter = LETTERS[example.choices.index(example.answer)]
    return _lettered(template, example) + LETTER_DELIMITER + letter


def _lettered(template: Template, item: Item) -> str:
    options = "".join(f"\n{LETTERS[i]}. {choice}" for i, choice in enumerate(item.choices))
    return _question(template, item) + options + LETTER_CUE
