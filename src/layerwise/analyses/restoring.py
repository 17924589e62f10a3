"""Read the results that a folder holds, verified by its list, and make again what follows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layerwise.errors import DamagedFileWarning, DamagedResultsError, MadeAgainWarning
from layerwise.storage.base import Result
from layerwise.storage.estimates import in_files
from layerwise.storage.file_list import NOT_KEPT_FILE, State, file_hashes, states
from layerwise.storage.parquet import AGAIN
from layerwise.storage.provenance import RUN_FILE, listed_files, read_facts, write_run_file
from layerwise.storage.written import REQUESTS_FILE, RUN_TABLES, TABLE_FILES, drop_from_file_list

Kinds = Sequence[type[Result]]
Join = Callable[[Path, Sequence[Result], Sequence[str]], None]


def refuse_changed_files(folder: Path) -> None:
    """Refuse a folder that lacks a listed file, or has it in another state than it was written."""
    lost = _changed_files(folder, listed_files(folder) or {})
    if lost:
        raise _refusal(folder, lost)


def refuse_changed_inputs(folder: Path) -> None:
    """Refuse requests or a lens that were changed; warn of other files; tables were restored."""
    lost = sorted(_changed_files(folder, listed_files(folder) or {}).items())
    for name, state in lost:
        if state == "changed" and not name.startswith("../"):  # a model's, beside the folder
            raise DamagedResultsError(
                f"{folder / name} was changed after it was written (its SHA-256 differs): restore "
                "it, or delete it to read the tables alone."
            )
    each = [f"{name} is {_in_words(state)}" for name, state in lost if state != "not kept"]
    if each:
        warnings.warn(
            f"In {folder} {', '.join(each)}; the tables are as they were written, and what is read "
            f"rests on them alone. To mend it, {AGAIN}.", DamagedFileWarning, stacklevel=3,
        )  # fmt: skip


def restore_requests(folder: Path, write: Callable[[Path], None]) -> None:
    """Write the requests of a finished run again if they are all that is lost."""
    files = listed_files(folder) or {}
    if set(_changed_files(folder, files)) == {REQUESTS_FILE}:
        kept = drop_from_file_list(folder, [REQUESTS_FILE])
        write(folder)
        write_run_file(folder, read_facts(folder), kept | file_hashes(folder, [REQUESTS_FILE]))


def restore(folder: Path, kinds: Kinds, join: Join | None = None) -> None:
    """Verify the tables of a finished run, and make again those that follow from others."""
    files = listed_files(folder)
    if files is None:
        return
    there = [name for name in RUN_TABLES if name not in files and (folder / name).exists()]
    if there:
        raise DamagedResultsError(
            f"{', '.join(there)} in {folder} is not in the list of {RUN_FILE}, as if it was being "
            "saved when the process ended, or was put there later: expected tables that are "
            "listed; save the result again, or delete the file."
        )
    inside = {name: digest for name, digest in files.items() if name in TABLE_FILES}
    lost = _changed_files(folder, inside)
    measured = {f"{name}.parquet" for kind in kinds for name in in_files(_own_tables(kind))}
    if lost.keys() & measured:
        raise _refusal(folder, {name: lost[name] for name in lost if name in measured})
    if lost:
        names = ", ".join(sorted(lost))
        _rebuild_tables(folder, list(lost), kinds, join)
        warnings.warn(
            f"Tables in {folder} were missing or changed and were made again from the others: "
            f"{names}.", MadeAgainWarning, stacklevel=3,
        )  # fmt: skip


def _changed_files(folder: Path, files: Mapping[str, str]) -> dict[str, State]:
    return {name: state for name, state in states(folder, files).items() if state != "ok"}


def _own_tables(kind: type[Result]) -> Sequence[str]:
    """Tables that follow from no others."""
    return () if kind.joins_others else kind.tables


def _refusal(folder: Path, lost: Mapping[str, State]) -> DamagedResultsError:
    states = ", ".join(f"{name} is {_in_words(state)}" for name, state in sorted(lost.items()))
    return DamagedResultsError(
        f"The results in {folder} are not as they were written ({states}): expected the files that "
        f"{RUN_FILE} lists, with their SHA-256; {AGAIN}."
    )


def _in_words(state: State) -> str:
    words = {"not kept": f"not kept here, as {NOT_KEPT_FILE} says", "missing": "missing"}
    return words.get(state, "changed or damaged")


def _rebuild_tables(folder: Path, lost: Sequence[str], kinds: Kinds, join: Join | None) -> None:
    """Write tables anew that follow from others; what cannot be made is no longer listed."""
    facts = read_facts(folder)
    whole = [
        kind.load(folder)
        for kind in kinds
        if (names := _own_tables(kind)) and all((folder / f"{n}.parquet").exists() for n in names)
    ]
    for name in lost:  # no rows of a damaged table are taken over
        (folder / name).unlink(missing_ok=True)
    for result in whole:
        again = [n for n in in_files(result.derived_tables()) if f"{n}.parquet" in lost]
        if again:
            result.write_tables(folder, again, facts)
    if join is not None:
        join(folder, whole, lost)
    files = listed_files(folder) or {}
    stale = list(_changed_files(folder, {name: files[name] for name in lost if name in files}))
    for name in stale:  # of what this version derives no more
        (folder / name).unlink(missing_ok=True)
    drop_from_file_list(folder, stale)


def load_kinds(folder: Path, kinds: Kinds, join: Join | None = None) -> list[Result]:
    """Load the results of some kinds that a folder holds, as ``load`` does of all."""
    if (folder / RUN_FILE).exists():
        read_facts(folder)
        restore(folder, kinds, join)
        refuse_changed_inputs(folder)
    return [kind.load(folder) for kind in kinds if _has_result(kind, folder)]


def _has_result(kind: type[Result], folder: Path) -> bool:
    """True if a folder holds a result; one that joins others must be whole, or is made again."""
    needed = in_files(kind.tables if kind.joins_others else kind.tables[:1])
    return all((folder / f"{name}.parquet").exists() for name in needed)
