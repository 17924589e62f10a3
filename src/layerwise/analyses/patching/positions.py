"""Which positions are patched, and what they are called.

Positions are named by where they stand relative to what differs between the two prompts, so
that pairs can be averaged and prompts of unequal length aligned. Nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerwise.tasks import PatchingPrompts

BEFORE, START, ANSWER, ALL = "before", "start", "answer", "all"
OF_PROMPT = (BEFORE, "first changed", "middle changed", "last changed", "next", "further", "last")
OF_DECODER = (START, ANSWER)
LABELS = (*OF_PROMPT, *OF_DECODER, ALL)
# What a map of layers by heads shows where nobody asks for other positions.
HEAD_LABELS = ("last changed", "last", ANSWER, ALL)
# Of the tokens between the changed ones and the last, at most so many are patched.
FURTHER = 4
Places = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Position:
    """A position that is patched.

    Attributes:
        clean: from 0 in the clean prompt.
        corrupted: the one that stands for it in the corrupted prompt; the same where both
            prompts have as many tokens.
        label: where it stands relative to what was changed.
    """

    clean: int
    corrupted: int
    label: str


def positions_of(prompts: PatchingPrompts, *, both_ways: bool = False) -> list[Position]:
    """The positions of a prompt that are worth patching.

    The labels are those of Meng et al. 2022 (arXiv:2202.05262, figure 2) with "changed" for
    "subject"; of further tokens a few, evenly spaced, stand for all. In prompts of unequal
    length the first and last changed tokens stand for each other, and what follows is counted
    from the end; tokens between have no counterpart and are left out.
    """
    clean, corrupted = prompts.changed
    ends, after = (len(prompts.clean), len(prompts.corrupted)), len(prompts.clean) - clean.stop
    found = []
    if both_ways:
        found += [Position(pos, pos, BEFORE) for pos in range(0, clean.start, _step(clean.start))]
    if min(len(clean), len(corrupted)) > 1:
        found.append(Position(clean[0], corrupted[0], "first changed"))
    if len(clean) == len(corrupted):
        found += [Position(pos, pos, "middle changed") for pos in clean[1:-1]]
    if after:
        found.append(Position(clean[-1], corrupted[-1], "last changed"))
    tail = [(ends[0] - left, ends[1] - left) for left in range(max(after, 1), 0, -1)]
    if len(tail) > 1:
        found.append(Position(*tail[0], "next"))
    found += [Position(*pair, "further") for pair in tail[1:-1][:: _step(len(tail) - 2)]]
    return [*found, Position(*tail[-1], "last")]


def _step(n: int) -> int:
    """The step by which a few of n positions are taken."""
    return max(1, -(-n // FURTHER))


def places_in_prompt(prompts: PatchingPrompts, *, both_ways: bool) -> list[tuple[str, Places]]:
    """Labels, each with the positions in the clean and the corrupted prompt that it stands for."""
    found: list[tuple[str, Places]] = [
        (at.label, ((at.clean, at.corrupted),)) for at in positions_of(prompts, both_ways=both_ways)
    ]
    clean, corrupted = prompts.changed
    if len(clean) == len(corrupted):
        every = range(0 if both_ways else clean.start, len(prompts.clean))
        found.append((ALL, tuple((pos, pos) for pos in every)))
    return found


def places_in_decoder(n_begins: int) -> list[tuple[str, Places]]:
    """The same for the tokens that a decoder begins with; the answer is read at the last one."""
    places = tuple((pos, pos) for pos in range(n_begins))
    labels = [START] * (n_begins - 1) + [ANSWER]
    return [*((label, (at,)) for label, at in zip(labels, places, strict=True)), (ALL, places)]
