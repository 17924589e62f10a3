"""Chat models: which extractor takes an answer from the sentences that they write."""

from __future__ import annotations

from dataclasses import replace

from .extractors import NAMED
from .task import GenerateSpec, Task

# Tokens of a sentence around an answer.
_SENTENCE = 32
_OF_SENTENCES = {"first_line": NAMED, "first_word": NAMED, "integer": "final_number"}


def for_chat(task: Task) -> Task:
    """The task with answers that may stand in sentences of several lines.

    Tasks whose extractor reads such texts already, and those with a judge of their own, stay.
    """
    spec = task.generate
    if task.judge is not None or spec.extractor not in _OF_SENTENCES:
        return task
    generate = GenerateSpec((), spec.max_tokens + _SENTENCE, _OF_SENTENCES[spec.extractor])
    return replace(task, generate=generate)
