"""Which files of a run's folder are listed: its tables, its requests, its tuned lens.

The report and the figures are not: they are drawn from the tables, and may be drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .file_list import hashes_of
from .provenance import listed_files, read_facts, write_run_file
from .schemas import SCHEMAS

REQUESTS_FILE = "requests.jsonl"
LENS_FILE = "tuned_lens.safetensors"
TABLE_FILES = tuple(f"{name}.parquet" for name in SCHEMAS)
LISTED = (*TABLE_FILES, REQUESTS_FILE, LENS_FILE)


def written_files(folder: Path) -> list[str]:
    """Names of the files in a run's folder that are to be listed."""
    return [name for name in LISTED if (folder / name).is_file()]


def unlisted_for(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The list of a folder without some files, written so before these are written anew.

    In a folder that keeps no list, such as one of an earlier version, the other files are taken
    as they are.

    Args:
        folder: the folder of a finished run, or one without ``run.json``.
        names: the files that are about to be written.

    Raises:
        UserError: if ``run.json`` cannot be read or written.
    """
    before = listed_files(folder)
    others = [name for name in written_files(folder) if name not in names]
    if before is None:
        return hashes_of(folder, others)
    files = {name: digest for name, digest in before.items() if name not in names}
    if files != before:
        write_run_file(folder, read_facts(folder), files)
    return files
