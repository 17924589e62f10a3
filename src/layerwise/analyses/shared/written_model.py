"""The folder that a model without some layers is written into, and is gone on in after a kill.

The run that tries the model is in its folder ``compared``; which files the model has, and what
the trial finds, is not known here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from layerwise.errors import UserError
from layerwise.models.files.cache import restore_permissions
from layerwise.runs.folder import RunFolder
from layerwise.storage.atomic_files import disk_errors
from layerwise.storage.file_list import file_hashes, states
from layerwise.storage.places import refuse_unusable_folder
from layerwise.storage.provenance import RUN_FILE, read_run_file
from layerwise.storage.written import COMPARED

TABLES = COMPARED
"""The folder within the written one that the comparison is saved in."""

PLACE = ".writing"
"""The folder within the written one in which files are written before they take their place."""

_MODEL = "written model"


def refuse_occupied_folder(out: Path) -> None:
    """Refuse a folder that holds anything but what ``prune_model`` writes."""
    refuse_unusable_folder(out, "a folder to write")
    if not out.is_dir():
        return
    tables = out / TABLES
    if (tables / RUN_FILE).exists():
        read_run_file(tables)  # a file that layerwise did not write is refused
        return
    others = tables.exists() and any(not path.name.startswith(".") for path in tables.iterdir())
    if others or any(path.name not in (PLACE, TABLES) for path in out.iterdir()):
        raise UserError(
            f"{out} is not empty: expected a new or empty folder for the model, or that of the "
            "same command; choose another."
        )


def write_model(run: RunFolder, out: Path, write: Callable[[Path], None]) -> dict[str, str]:
    """Write a model's files, unless an earlier process wrote them and they are still the same."""
    shutil.rmtree(out / PLACE, ignore_errors=True)
    if run.has_part(_MODEL):
        known = run.read_part(_MODEL)
        files = dict(zip(known["file"], known["sha256"], strict=True))
        if set(states(out, files).values()) == {"ok"}:
            return files
    with taking_their_place(out) as place:
        write(place)
        files = file_hashes(place, os.listdir(place))
    run.write_part(_MODEL, pd.DataFrame({"file": list(files), "sha256": list(files.values())}))
    return files


@contextlib.contextmanager
def taking_their_place(out: Path, *, parents: bool = False) -> Iterator[Path]:
    """A model's files take their place in a folder when all are whole, ``config.json`` last."""
    place = out / PLACE
    try:
        with disk_errors(out):
            place.mkdir(parents=parents)
            yield place
            restore_permissions(place)
            for name in sorted(os.listdir(place), key=lambda name: name == "config.json"):
                os.replace(place / name, out / name)
    except SafetensorError as error:
        raise UserError(
            f"The weights cannot be written to {out} ({error}): free some disk space and give the "
            "same command again, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def remove_model(out: Path, names: Iterable[str]) -> None:
    """Remove a written model with its run, and the folder if nothing else is in it."""
    shutil.rmtree(out / PLACE, ignore_errors=True)
    shutil.rmtree(out / TABLES, ignore_errors=True)
    for name in names:
        (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()
