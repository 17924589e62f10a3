"""What reads only an answer's first token: pairs of prompts for patching, and who must not.

Both use the prompt of the ``continuation`` protocol; running models is done elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerwise.sweep.requests import Tokens
from layerwise.tasks._encoding import Tokenizer, encode_pair
from layerwise.tasks._prompts import open_prompt
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task


@dataclass(frozen=True)
class PatchingPrompts:
    """An item's prompt and its corrupted twin, with the first token of each one's answer.

    Attributes:
        item: item id.
        clean: tokens of the item's prompt.
        corrupted: tokens of the corrupted prompt.
        clean_answer: first token of the item's answer.
        corrupted_answer: first token of the corrupted prompt's answer.
        problem: why patching must leave this pair out, in one sentence; None if it need not.
    """

    item: str
    clean: Tokens
    corrupted: Tokens
    clean_answer: int
    corrupted_answer: int
    problem: str | None = None


def patching_prompts(task: Task, item: Item, tokenizer: Tokenizer) -> PatchingPrompts | None:
    """The two prompts between which activations are patched.

    Args:
        task: where the item is from.
        item: the item.
        tokenizer: the original Hugging Face tokenizer.

    Returns:
        The pair, or None if the item has no corruption.
    """
    change = item.corruption
    if change is None:
        return None
    twin = replace(item, question=change.question, context=change.context, answer=change.answer)
    clean, answer = _prompt_and_answer(task, item, tokenizer)
    corrupted, other = _prompt_and_answer(task, twin, tokenizer)
    problem = _problem(item, clean, corrupted, answer, other)
    return PatchingPrompts(item.id, clean, corrupted, answer, other, problem)


def shared_first_tokens(task: Task, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Items whose answer begins with the same token as another of their choices.

    The logit lens and patching read the first token alone, so for these items they could
    not tell the answer from a distractor.

    Returns:
        Item ids, in the task's order.
    """
    return tuple(item.id for item in task.items if _shares(task, item, tokenizer))


def _shares(task: Task, item: Item, tokenizer: Tokenizer) -> bool:
    prompt = open_prompt(task, item)
    first = {
        choice: _first_token(task, prompt, choice, tokenizer)
        for choice in (item.answer, *item.choices)
    }
    answer = first.pop(item.answer)
    return answer in first.values()


def _prompt_and_answer(task: Task, item: Item, tokenizer: Tokenizer) -> tuple[Tokens, int]:
    prompt = open_prompt(task, item)
    context, rest = encode_pair(tokenizer, prompt, task.template.delimiter + item.answer)
    return context, rest[0]


def _first_token(task: Task, prompt: str, answer: str, tokenizer: Tokenizer) -> int:
    return encode_pair(tokenizer, prompt, task.template.delimiter + answer)[1][0]


def _problem(item: Item, clean: Tokens, corrupted: Tokens, answer: int, other: int) -> str | None:
    if len(clean) != len(corrupted):
        return (
            f"Item {item.id!r} and its corruption have {len(clean)} and {len(corrupted)} tokens; "
            "patching needs equal lengths."
        )
    if answer == other:
        return (
            f"The answers to item {item.id!r} and to its corruption begin with the same token; "
            "patching needs different ones."
        )
    return None
