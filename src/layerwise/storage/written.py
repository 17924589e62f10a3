"""Files of a run's folder that are listed: its tables, its requests, its tuned lens.

The report and the figures are not: they are drawn from the tables, and may be drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.errors import DamagedResultsError, UserError
from layerwise.ground.analysis_folders import COMPARING

from .estimates import ESTIMATES, in_files
from .provenance import RUN_FILE, listed_files, read_facts, write_run_file
from .schemas import OWNERS, SCHEMAS

REQUESTS_FILE = "requests.jsonl"
LENS_FILE = "tuned_lens.safetensors"
# Of several runs together: the list of each, its estimates, and its other tables.
_JOINED = COMPARING
# The files of tables, with the names of what is in them.
TABLES_IN_FILES = {
    f"{name}.parquet": name for name in in_files(SCHEMAS) if name != ESTIMATES
} | dict.fromkeys([f"{name}.parquet" for name in (ESTIMATES, *_JOINED)], ESTIMATES)
TABLE_FILES = tuple(TABLES_IN_FILES)
JOINED_LISTS = tuple(f"{name}.json" for name in _JOINED)
JOINED_TABLES = tuple(
    file
    for file, name in TABLES_IN_FILES.items()
    if OWNERS[name] in _JOINED or file.removesuffix(".parquet") in _JOINED
)
RUN_TABLES = tuple(name for name in TABLE_FILES if name not in JOINED_TABLES)
LISTED = (*RUN_TABLES, REQUESTS_FILE, LENS_FILE)
LOST_WITH_RUN_FILE = "the checksums of the files and the facts of the run are lost with it"
_RESULTS = (RUN_FILE, *JOINED_LISTS, *TABLE_FILES, REQUESTS_FILE, LENS_FILE)
COMPARED = "compared"
"""The folder of the run that belongs to a written model, beside that model's files."""


def written_files(folder: Path) -> list[str]:
    """Names of the files in a run's folder that are to be listed."""
    return [name for name in LISTED if (folder / name).is_file()]


def results_without_list(folder: Path) -> list[str]:
    """Names of a run's results in a folder whose ``run.json``, which listed them, is gone."""
    if (folder / RUN_FILE).exists():
        return []
    return written_files(folder)


def refuse_other_results(folder: Path, own: Sequence[str], others: Sequence[str] = ()) -> None:
    """Refuse a folder that holds results of another kind, or a model, before it has two lists."""
    every = ("config.json", f"{COMPARED}/{RUN_FILE}", *_RESULTS)
    there = [name for name in others or every if name not in own and (folder / name).exists()]
    if there:
        raise UserError(
            f"{folder} holds something else ({there[0]}{', ...' * (len(there) > 1)}): expected an "
            "empty folder, or one with results of the same kind; choose another folder."
        )


def refuse_without_list(folder: Path, written_anew: Sequence[str] = ()) -> None:
    """Refuse results whose ``run.json`` is gone: whether some are lost or changed is unknown."""
    left = [name for name in results_without_list(folder) if name not in written_anew]
    if left:
        raise DamagedResultsError(
            f"{folder} holds results ({left[0]}{', ...' * (len(left) > 1)}) and no {RUN_FILE}: "
            f"{LOST_WITH_RUN_FILE}, so that nobody can know whether results are missing or "
            f"changed; expected {RUN_FILE} beside them, so restore it, or delete the folder and "
            "give the command that made it again."
        )


def refuse_other_files(folder: Path) -> None:
    """Refuse a folder with files that is not a run's, as a run's folder."""
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else ()
    visible = [name for name in there if not name.startswith(".")]
    if visible and RUN_FILE not in visible:
        refuse_without_list(folder)
        raise UserError(
            f"{folder} holds other files ({visible[0]}, ...) and no {RUN_FILE}: expected an "
            "empty folder or that of an earlier run; choose another folder."
        )


def drop_from_file_list(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The list of a folder without some files, written so before these are written anew."""
    refuse_without_list(folder, names)
    before = listed_files(folder) or {}
    files = {name: digest for name, digest in before.items() if name not in names}
    if files != before:
        write_run_file(folder, read_facts(folder), files)
    return files
