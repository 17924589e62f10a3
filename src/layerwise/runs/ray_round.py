"""A round of pieces on a pool of workers: largest first, and again elsewhere what is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from layerwise.errors import UserError, counted, printable

from .executors import Keep, Work
from .progress import Meter
from .ray_pool import PATIENCE, Hand, Pool
from .travel import table_from_bytes

# A piece that fails so often is given up; workers are lost through no fault of a piece, so that
# more of them are forgiven.
MOST_FAILURES, MOST_LOST = 3, 6
_LONGEST = 300  # characters of what a worker says of a failure


class Round:
    """Pieces that workers make, until each is kept or given up.

    Args:
        pool: the workers, which have the job.
        works: the pieces.
        keep: keeps one.
        progress: is told of it.
    """

    def __init__(self, pool: Pool, works: Sequence[Work], keep: Keep, progress: Meter) -> None:
        self._pool, self._works, self._keep, self._progress = pool, works, keep, progress
        self._left = sorted(range(len(works)), key=lambda number: -works[number].amount)
        self._idle: list[Hand] = []
        self._asked: dict[Any, tuple[Hand, int]] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._given_up: dict[int, str] = {}
        self._told: set[str] = set()
        self._last = time.monotonic()

    def run(self) -> None:
        """Have all pieces made."""
        while self._left or self._asked:
            self._give_out()
            for one, beginning, answer in self._pool.wait(list(self._asked)):
                self._last = time.monotonic()
                if beginning is not None:
                    if self._pool.begun(beginning, answer):
                        self._idle.append(beginning)
                else:
                    self._take(*self._asked.pop(one), answer)
            if self._left:
                self._pool.look()
            self._tell()
        if self._given_up:
            raise UserError(self._sentence())

    def _give_out(self) -> None:
        while self._left and self._idle:
            hand = self._idle.pop(0)
            number = self._next(hand)
            self._left.remove(number)
            work = self._works[number]
            hand.last = work.doing
            workers = counted(self._pool.n_workers, "worker")
            self._progress.doing(f"{work.doing}, on {workers}")
            self._asked[self._pool.ask(hand, number)] = hand, number

    def _next(self, hand: Hand) -> int:
        """The largest piece; or one like the worker's last, with which it shares examples."""
        largest = self._left[0]
        alike = (n for n in self._left if self._works[n].doing == hand.last)
        near = next(alike, largest)
        return near if 2 * self._works[near].amount >= self._works[largest].amount else largest

    def _take(self, hand: Hand, number: int, answer: dict[str, Any] | None) -> None:
        work = self._works[number]
        if answer is None:
            self._pool.drop(hand)
            on = hand.machine.machine if hand.machine else "a machine"
            self._progress.note(f"a worker on {on} was lost; its piece is made again.")
            self._again(number, "lost", MOST_LOST, "the worker was lost each time")
            return
        self._idle.append(hand)
        if "failed" in answer:
            said = printable(str(answer["failed"]))[:_LONGEST]
            on = hand.machine.machine if hand.machine else "a worker"
            self._again(number, "failed", MOST_FAILURES, f"last on {on}, {said}")
            return
        tables = {name: table_from_bytes(table) for name, table in answer["tables"].items()}
        self._keep(work, tables, hand.machine)
        self._progress.done(work.amount)

    def _again(self, number: int, how: str, most: int, why: str) -> None:
        self._failures[how, number] += 1
        if self._failures[how, number] >= most:
            self._given_up[number] = f"failed {most} times ({why})"
            self._progress.done(self._works[number].amount)
        else:
            self._left.insert(0, number)

    def _tell(self) -> None:
        """Tell of machines that are refused, and of waiting for workers; end where none is left."""
        for why in self._pool.refused:
            if why not in self._told:
                self._told.add(why)
                self._progress.note(f"a machine is left out: {why}")
        if not self._asked and self._pool.hopeless():
            raise UserError(f"Ray has no worker left for this run: {'; '.join(self._pool.refused)}")
        waiting = not self._asked and not self._idle
        if waiting and "waiting" not in self._told and time.monotonic() > self._last + PATIENCE:
            self._told.add("waiting")
            self._progress.note(
                "no worker of Ray's is ready yet: machines load the model, or have no room."
            )

    def _sentence(self) -> str:
        told = [f"{self._works[n].names[-1]!r} {why}" for n, why in sorted(self._given_up.items())]
        more = f", and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
        return (
            f"{counted(len(told), 'piece')} of the run could not be made: {'; '.join(told[:3])}"
            f"{more}. All other pieces are kept: expected each to be made; give the same command "
            "again to try what is missing, without Ray to see all of an error."
        )
