"""Running something once and saying what it took; tables of what was measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, processor seconds, and tokens pushed through a block."""

    seconds: float
    cpu_seconds: float
    token_passes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.token_passes + other.token_passes,
        )


def time_and_report(name: str, run: Callable[[], Any]) -> tuple[Any, Cost]:
    """Run something once; what it took is also told at once, since all of it takes minutes."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcomes = run()
    spent = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    print(f"{name}: {spent.seconds:.1f} s", file=sys.stderr, flush=True)
    return outcomes, spent


def spread(n: int, k: int) -> list[int]:
    """``k`` of ``n`` numbers from 0, evenly over all of them; all if ``k`` is as many or more."""
    few = min(n, k)
    return [round(i * (n - 1) / max(1, few - 1)) for i in range(few)]


def markdown(head: str, rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table.

    Args:
        head: the columns' names, separated by ``|``.
        rows: the cells.
        words: how many columns from the left hold words; the others are numbers.
    """
    names = head.split("|")
    ruler = ["---"] * words + ["---:"] * (len(names) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, ruler, *rows))
