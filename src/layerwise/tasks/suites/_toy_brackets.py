"""Items of a toy language's brackets, which are to be closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from layerwise.models.organisms.forms import ask_closing
from layerwise.models.organisms.language import Language
from layerwise.tasks.items import Corruption, Item
from layerwise.tasks.suites._building import draw


def bracket_block(
    language: Language, rng: np.random.Generator, depth: int, n_closed: int
) -> list[Item]:
    """Four sequences that are kept for tests, closed by different brackets first."""
    kinds = [kind for kind, _ in language.brackets]
    closing = dict(language.brackets)
    rows = []
    for last in draw(rng, kinds, len(kinds)):
        opened = _opened(rng, kinds, depth, last)
        while not language.for_tests(*opened):
            opened = _opened(rng, kinds, depth, last)
        rows.append(opened)
    answers = [" ".join(closing[bracket] for bracket in reversed(row)) for row in rows]
    items = []
    for index, (opened, answer) in enumerate(zip(rows, answers, strict=True)):
        other = draw(rng, [kind for kind in kinds if kind != opened[-1]], 1)[0]
        closed = [(int(rng.integers(depth + 1)), str(rng.choice(kinds))) for _ in range(n_closed)]
        items.append(
            Item(
                id="",
                question=ask_closing(_among(opened, closed, closing)),
                answer=answer,
                choices=(answer, *answers[:index], *answers[index + 1 :]),
                corruption=Corruption(
                    ask_closing(_among([*opened[:-1], other], closed, closing)),
                    " ".join([closing[other], *answer.split()[1:]]),
                ),
                group=f"{depth} open",
            )
        )
    return items


def _among(
    opened: Sequence[str], closed: Iterable[tuple[int, str]], closing: Mapping[str, str]
) -> list[str]:
    """Open brackets, and closed pairs of a kind behind so many of them."""
    row = [[bracket] for bracket in ("", *opened)]
    for place, kind in closed:
        row[place] += [kind, closing[kind]]
    return [bracket for part in row for bracket in part if bracket]


def _opened(rng: np.random.Generator, kinds: Sequence[str], depth: int, last: str) -> list[str]:
    return [*(str(kind) for kind in rng.choice(kinds, depth - 1)), last]
