"""Carry a planned analysis out: in a run's folder, where it can be resumed, or in memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from layerwise.errors import DamagedResultsError, MadeAgainWarning
from layerwise.runs.checkpoints import CheckpointStore, with_origin
from layerwise.runs.folder import RunFolder
from layerwise.runs.options import WorkOptions
from layerwise.runs.progress import Meter, meter
from layerwise.runs.setup import Setup
from layerwise.storage.base import Result

from .contract import Job
from .restoring import Join, Kinds, load_kinds, refuse_changed_files, restore, restore_requests

_Read = TypeVar("_Read")
_Found = TypeVar("_Found", covariant=True)


class JobOfSetup(Job[_Found], Protocol[_Found]):
    """A job that says what it is made from."""

    @property
    def setup(self) -> Setup:
        """Setup that it starts from."""
        ...

    def settings(self) -> dict[str, Any]:
        """Settings that make it this job and no other, beside its set-up, as plain JSON values."""
        ...


def execute_job(
    job: JobOfSetup[_Read],
    result: type[Result],
    analysis: str,
    run: WorkOptions,
    also: Callable[[Path], None] | None = None,
) -> _Read:
    """As ``execute``, of a job with one result."""
    settings = job.setup.settings(analysis=analysis, **job.settings())
    (made,) = execute(
        lambda parts, progress: [job.run(parts, settings, progress)],
        (result,), run["out"], settings, job.setup.refuse_changed, run["progress"], also,
    )  # fmt: skip
    return made


def execute(
    make: Callable[[CheckpointStore, Meter], list[Any]],
    kinds: Kinds,
    out: str | Path | None,
    settings: dict[str, Any],
    refuse_changed: Callable[[], None],
    progress: bool,
    also: Callable[[Path], None] | None = None,
    join: Join | None = None,
    beside: Mapping[str, str] | None = None,
) -> list[Any]:
    """Make results of some kinds, or read those of a finished run with the same settings.

    Files ``beside`` the folder are listed, too.
    """
    # What run.json could not hold must not be found out when everything is done.
    json.dumps(settings, allow_nan=False)
    if out is None:
        with meter(progress) as reported:
            results = _make_with_origin(make, CheckpointStore(), reported)
        refuse_changed()
        return results
    with RunFolder.open(out, settings) as folder:
        if folder.finished:
            results = read_finished_run(folder, kinds, also, join)
            if results is not None:
                return results
        with meter(progress) as reported:
            results = _make_with_origin(make, folder, reported)
        folder.refuse_deleted()
        folder.refuse_changed(refuse_changed)
        for result in results:
            result.save(folder.path)
        if also is not None:
            also(folder.path)
        folder.finish(results[0].facts, {f"../{name}": sha for name, sha in (beside or {}).items()})
    return results


def _make_with_origin(
    make: Callable[[CheckpointStore, Meter], list[Any]], parts: CheckpointStore, progress: Meter
) -> list[Any]:
    """Results, whose facts say what made pieces of them."""
    return [with_origin(result, parts) for result in make(parts, progress)]


def read_finished_run(
    folder: RunFolder,
    kinds: Kinds,
    also: Callable[[Path], None] | None = None,
    join: Join | None = None,
) -> list[Any] | None:
    """Verify a finished run and read it; None, and a warning, if it must be made again."""
    try:
        restore(folder.path, kinds, join)
        if also is not None:
            restore_requests(folder.path, also)
        refuse_changed_files(folder.path)
        return load_kinds(folder.path, kinds, join)
    except DamagedResultsError as error:
        lost = str(error).partition(": expected")[0]
        warnings.warn(f"{lost}: the run is made again.", MadeAgainWarning, stacklevel=4)
        folder.reopen()
        return None
