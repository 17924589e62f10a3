"""Pictures for narrow screens, made while the wide ones are drawn: by a second process or a thread.

A second process is started only where that was asked for, as the command line does: it begins by
importing the main module of the first, which a user's script need not be prepared for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING

from layerwise.ground.process import has_beside
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.section import FigureSpec
from layerwise.storage.provenance import ModelFacts

if TYPE_CHECKING:
    from PIL.Image import Image

Jobs = dict[FigureSpec, ModelFacts | None]

# A second process imports what draws for as long as this many narrow pictures take.
_FEWEST = 8


@contextmanager
def narrow_pictures(jobs: Jobs) -> Iterator[Narrow]:
    """Begin with the narrow pictures of drawings; inside, the wide ones may be drawn meanwhile."""
    if has_beside() and len(jobs) >= _FEWEST and _n_cores() > 1:
        spawning = get_context("spawn")  # a fork would copy locks that threads of torch hold
        with ProcessPoolExecutor(1, spawning, initializer=_begin) as pool:
            made = {each: _begun(pool, each, jobs[each]) for each in jobs}
            try:
                yield Narrow(jobs, made, shared=True)
            finally:  # after an interrupt, what is not begun is not waited for
                pool.shutdown(cancel_futures=True)
    else:
        from layerwise.presentation.save import encoded

        with ThreadPoolExecutor(1) as pool:
            pixels = ((each, _pixels(each, jobs[each])) for each in jobs)
            made = {each: pool.submit(encoded, image) for each, image in pixels}
            yield Narrow(jobs, made, shared=False)


class Narrow:
    """Narrow pictures, some of them still being made.

    Attributes:
        jobs: what is drawn.
        made: the pictures, in the order in which they are made.
        shared: whether this process may help with those that are not begun.
    """

    def __init__(self, jobs: Jobs, made: dict[FigureSpec, Future[str]], shared: bool) -> None:
        self.jobs, self.made, self.shared = jobs, made, shared

    def all(self) -> dict[FigureSpec, str]:
        """All of them, as ``data:`` addresses, from the last, which is begun last, on."""
        return {drawing: self._one(drawing) for drawing in reversed(self.made)}

    def _one(self, drawing: FigureSpec) -> str:
        made = self.made[drawing]
        if not self.shared or not made.cancel():
            # One that cannot be started, or was ended by someone, leaves this one to draw.
            with suppress(BrokenProcessPool):
                return made.result()
        return picture(drawing, self.jobs[drawing])


def _begun(pool: Executor, drawing: FigureSpec, model: ModelFacts | None) -> Future[str]:
    """The picture in the making; one that is cancelled if no process can make it."""
    try:
        return pool.submit(picture, drawing, model)
    except (BrokenProcessPool, OSError):
        nobody: Future[str] = Future()
        nobody.cancel()
        return nobody


def picture(drawing: FigureSpec, model: ModelFacts | None) -> str:
    """The narrow picture of one drawing, as a ``data:`` address."""
    from layerwise.presentation.save import encoded

    return encoded(_pixels(drawing, model))


def _pixels(drawing: FigureSpec, model: ModelFacts | None) -> Image:
    from layerwise.presentation.save import pixels_of
    from layerwise.presentation.style import COLUMN_WIDTH

    with naming_layers_of(model):
        return pixels_of(drawing.draw(width=COLUMN_WIDTH))


def _n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _begin() -> None:
    """In the second process: leave interrupts to the first, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
