"""Carry a planned analysis out: in a run's folder, where it can be resumed, or in memory.

What the analysis does is its own business; what a folder is, ``results.RunFolder``'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerwise._parts import MemoryParts, Parts
from layerwise._progress import Meter, meter
from layerwise._restoring import refuse_lost, restore, restore_requests
from layerwise.errors import DamagedResultsError, MadeAgainWarning
from layerwise.results import Result, RunFolder, load_results


def carry_out(
    make: Callable[[Parts, Meter], list[Any]],
    out: str | Path | None,
    settings: dict[str, Any],
    progress: bool,
    also: Callable[[Path], None] | None = None,
) -> list[Any]:
    """Make an analysis's results, or read those of a finished run with the same settings.

    Of a finished run, what is lost and follows from the rest is made again from it; where that
    is not enough, the run is made again.

    Args:
        make: makes the results, the pieces of an interrupted run given.
        out: the run's folder; None for memory.
        settings: what a run must agree in to go on.
        progress: show a progress bar.
        also: writes what else belongs into the folder.

    Raises:
        UserError: if the folder cannot be used (see ``RunFolder.open``), or is deleted meanwhile.
    """
    if out is None:
        with meter(progress) as told:
            return make(MemoryParts(), told)
    with RunFolder.open(out, settings) as folder:
        if folder.finished:
            try:
                return _finished(folder.path, also)
            except DamagedResultsError as error:
                lost = str(error).partition(": expected")[0]
                warnings.warn(f"{lost}: the run is made again.", MadeAgainWarning, stacklevel=3)
                folder.reopen()
        with meter(progress) as told:
            results: list[Result] = make(folder, told)
        folder.refuse_deleted()
        for result in results:
            result.save(folder.path)
        if also is not None:
            also(folder.path)
        folder.finish(results[0].facts)
    return results


def _finished(folder: Path, also: Callable[[Path], None] | None) -> list[Result]:
    """The results of a finished run whose files are all as they were written.

    Raises:
        DamagedResultsError: if something is lost that does not follow from the rest.
    """
    restore(folder)
    if also is not None:
        restore_requests(folder, also)
    refuse_lost(folder)
    return load_results(folder)
