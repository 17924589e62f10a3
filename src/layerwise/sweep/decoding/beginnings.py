"""The tokens with which several prompts of a walk begin, found by their packed indices alone."""

from __future__ import annotations

from collections.abc import Sequence

from .decode_step import Beginning


def beginnings(paths: Sequence[Sequence[int]], shortest: int) -> list[Beginning | None]:
    """For each prompt the beginning that it shares with others, if it is long enough."""
    by_first: dict[int, list[int]] = {}
    for index, path in enumerate(paths):
        by_first.setdefault(path[0], []).append(index)
    shared: list[Beginning | None] = [None] * len(paths)
    for members in by_first.values():
        if len(members) < 2:
            continue
        # The last token of a prompt is predicted from, so that it may be in the beginning, too.
        longest = min(len(paths[index]) for index in members)
        length = next(
            (i for i in range(longest) if len({paths[index][i] for index in members}) > 1), longest
        )
        first = paths[members[0]]
        run = next((i for i in range(length) if first[i] != first[0] + i), length)
        if run >= shortest:
            for index in members:
                shared[index] = Beginning(first[0], run)
    return shared
