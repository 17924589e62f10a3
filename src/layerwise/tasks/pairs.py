"""Pairs of prompts for patching, read by an answer's first token, and those that must not be.

Both use the prompt of the ``continuation`` protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerwise.errors import TooLongError, count_noun
from layerwise.sweep.requests import Tokens, n_common_tokens
from layerwise.tasks._encoding import Tokenizer, encode_pair
from layerwise.tasks._requests import prompt
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
        problem_aligned: the same where prompts of unequal length are aligned.
    """

    item: str
    clean: Tokens
    corrupted: Tokens
    clean_answer: int
    corrupted_answer: int
    problem: str | None = None
    problem_aligned: str | None = None

    @property
    def changed_ranges(self) -> tuple[range, range]:
        """From the first token that differs to the last one, in either prompt."""
        return changed_spans(self.clean, self.corrupted)


def changed_spans(clean: Tokens, corrupted: Tokens) -> tuple[range, range]:
    """Spans of two prompts that differ: without shared tokens at both ends."""
    before = n_common_tokens(clean, corrupted)
    after = n_common_tokens(clean[before:][::-1], corrupted[before:][::-1])
    return range(before, len(clean) - after), range(before, len(corrupted) - after)


def patching_prompts(
    task: Task, item: Item, tokenizer: Tokenizer, *, apart: bool = False
) -> PatchingPrompts | None:
    """The two prompts between which activations are patched.

    Args:
        task: where the item is from.
        item: the item.
        tokenizer: the original Hugging Face tokenizer.
        apart: encode prompt and answer by themselves, as an encoder-decoder reads and says them.

    Returns:
        The pair, or None if the item has no corruption.
    """
    change = item.corruption
    if change is None:
        return None
    twin = replace(item, question=change.question, context=change.context, answer=change.answer)
    clean, answer = _prompt_and_answer(task, item, tokenizer, apart)
    corrupted, other = _prompt_and_answer(task, twin, tokenizer, apart)
    alike, unequal = None, None
    if answer == other:
        alike = (
            f"The answers to item {item.id!r} and to its corruption begin with the same token; "
            "patching needs different ones."
        )
    elif not all(changed_spans(clean, corrupted)):
        # The prompts are the same, or one is the other with tokens put in.
        alike = (
            f"Item {item.id!r} and its corruption do not both have tokens that the other lacks; "
            "patching needs a changed token in each."
        )
    if len(clean) != len(corrupted):
        unequal = (
            f"Item {item.id!r} and its corruption have {len(clean)} and "
            f"{count_noun(len(corrupted), 'token')}; patching needs equal lengths, or "
            f"pairs that are "
            "aligned."
        )
    return PatchingPrompts(item.id, clean, corrupted, answer, other, unequal or alike, alike)


def check_room(task: Task, prompts: PatchingPrompts, max_length: int) -> None:
    """Refuse a pair that the model has no room for."""
    longest = max(len(prompts.clean), len(prompts.corrupted))
    if longest > max_length:
        raise TooLongError(
            f"Item {prompts.item!r} of task {task.name!r} needs {longest} tokens, but the model "
            f"takes {max_length}; take fewer few-shot examples or a shorter context, or leave such "
            "items out (skip_long)."
        )


def shared_first_tokens(task: Task, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Items whose answer begins with the same token as another of their choices.

    The logit lens and patching read the first token alone, so for these items they could
    not tell the answer from a distractor.

    Returns:
        Item ids, in the task's order.
    """
    shared = []
    for item in task.items:
        first = {
            choice: _prompt_and_answer(task, replace(item, answer=choice), tokenizer, False)[1]
            for choice in (item.answer, *item.choices)
        }
        answer = first.pop(item.answer)
        shared += [item.id] if answer in first.values() else []
    return tuple(shared)


def _prompt_and_answer(
    task: Task, item: Item, tokenizer: Tokenizer, apart: bool
) -> tuple[Tokens, int]:
    """Tokens of an item's prompt, and the first one of its answer."""
    answer = task.template.delimiter + item.answer
    context, rest = encode_pair(tokenizer, prompt(task, item), answer, apart=apart)
    return context, rest[0]
