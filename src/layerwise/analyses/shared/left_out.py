"""Items that an analysis does not read: what its entry of the work says of them, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerwise.presentation.wording import protocol_phrase
from layerwise.storage.provenance import Facts

SELECTION, HELD_OUT = "selection", "held out"


# Items that are named, and tasks and protocols whose items left out are named in sentences.
_NAMED = 3
_SAID = 3


def exclusion_entry(items: Sequence[str], why: str) -> dict[str, Any]:
    """Number of items that are not read, why, and the first; only that none is if all are."""
    if not items:
        return {"left_out": 0}
    more = " and more" if len(items) > _NAMED else ""
    first = ", ".join(items[:_NAMED]) + more
    return {"left_out": len(items), "why_left_out": why, "first_left_out": first}


def words_with_exclusions(words: str, facts: Facts, analysis: str) -> str:
    """Words that a part of a page begins with, and the items that its analysis leaves out."""
    return " ".join([words, *exclusion_sentences(facts, analysis)])


def exclusion_sentences(facts: Facts, analysis: str) -> list[str]:
    """Items that an analysis leaves out, and why, a sentence for each task and protocol."""
    sizes = {task.name: task.n_items for task in facts.tasks}
    who = "The logit lens" if analysis == "logit lens" else analysis.capitalize()
    sentences = [
        f"{who} leaves out {entry['left_out']} of {sizes[str(entry['task'])]} items of "
        f"{entry['task']} {protocol_phrase(str(entry['protocol']))}, as {entry['why_left_out']}: "
        f"{entry['first_left_out']}."
        for entry in facts.work
        if entry.get("analysis") == analysis and "why_left_out" in entry
    ]
    more = [f"It leaves out items of {len(sentences) - _SAID} more; the table of work has them."]
    return sentences[:_SAID] + (more if len(sentences) > _SAID else [])
