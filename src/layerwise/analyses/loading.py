"""Read whatever results a folder holds, once they are known to be as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.errors import DamagedResultsError, UserError
from layerwise.ground.arguments import check_arguments
from layerwise.storage.base import Result
from layerwise.storage.places import is_folder
from layerwise.storage.provenance import RUN_FILE, read_facts
from layerwise.storage.written import refuse_without_list

from .registry import RESULTS
from .restoring import restore, warn_of_lost


@check_arguments()
def load_results(folder: str | Path) -> list[Result]:
    """Load all results of a folder.

    Raises:
        UserError: if the folder does not exist, holds no result or an unfinished run, or results
            and no ``run.json``; if a table is damaged, missing or changed since it was written
            and does not follow from others.

    Warns:
        MadeAgainWarning: if tables were missing or changed, and were made again from others.
        DamagedFileWarning: if another file of the run is missing or changed, on which no result
            rests that is read here.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected the folder of a run; check the path.")
    refuse_without_list(folder)
    if (folder / RUN_FILE).exists():
        read_facts(folder)
        restore(folder)
        warn_of_lost(folder)
    kinds = [kind for kind in RESULTS if _there(kind, folder)]
    if not kinds:
        raise DamagedResultsError(
            f"No results in {folder}: expected {_or([kind.tables[0] for kind in RESULTS])}; "
            "check the path, or run an analysis with this folder."
        )
    return [kind.load(folder) for kind in kinds]


def _there(kind: type[Result], folder: Path) -> bool:
    """Whether a folder holds a result; one that joins others must be whole, or is made again."""
    needed = kind.tables if kind.joins_others else kind.tables[:1]
    return all((folder / f"{name}.parquet").exists() for name in needed)


def _or(names: Sequence[str]) -> str:
    files = [f"{name}.parquet" for name in names]
    return f"{', '.join(files[:-1])} or {files[-1]}"
