"""A run's folder while the run goes on: its settings, its lock, and its parts so far."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa

from layerwise.errors import OtherEnvironmentWarning, UserError
from layerwise.storage.atomic_files import (
    deleted_folder_error,
    disk_errors,
    keep_deleted_folders_deleted,
    remove_temporaries,
)
from layerwise.storage.file_list import file_hashes
from layerwise.storage.parquet import to_bytes
from layerwise.storage.places import refuse_unusable_folder
from layerwise.storage.provenance import (
    RUN_FILE,
    Facts,
    distinct,
    environment_differences,
    installed_versions,
    is_finished,
    read_run_file,
    write_run_file,
)
from layerwise.storage.written import refuse_other_files, written_files

from .checkpoints import (
    CheckpointStore,
    Environment,
    environment_now,
    part_environment,
    read_bytes_part,
    read_part_file,
    write_bytes_part,
)

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs at once are not noticed there
    fcntl = None

_LOCK = ".lock"
_PARTS = "parts"
# File systems allow 255 bytes; endings and the names of temporary files need some of them.
_LONGEST = 200

# Settings that kept runs of published studies lack, so that they cannot be held to them.
_LATER = ("source_hash", "tokenizer_hash", "tasks_as_read", "prompts_hash", "beside")
_COUNTED, _HASH = re.compile(r"(\d+) items, [0-9a-f]{64}"), re.compile("[0-9a-f]{64}")
_WITHIN = {"tasks": "task", "tasks_as_read": "task"}
_HASHED = {
    "model_hash": "the weights changed",
    "other_hash": "the other model's weights changed",
    "teacher_hash": "the teacher's weights changed",
    "source_hash": "the model's files changed",
    "tokenizer_hash": "the tokenizer changed",
    "prompts_hash": "the prompts changed (a chat template may put today's date in)",
    "text_hash": "the texts changed",
}


@dataclass(frozen=True)
class RunFolder(CheckpointStore):
    """A folder that one run writes to, and goes on in after an interruption."""

    # Use it as a context manager, so that the folder is given back whatever happens.

    path: Path  # the folder
    settings: dict[str, Any]  # what the run was asked for, as plain JSON values
    lock: IO[str]  # the open lock file; the system gives the lock up when the process ends
    _used: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack, repr=False, compare=False
    )

    @classmethod
    def open(cls, path: str | Path, settings: dict[str, Any]) -> RunFolder:
        """Make the folder, or go on in the one of an earlier run with the same settings."""
        path, settings = Path(path), json.loads(json.dumps(settings))
        refuse_unusable_folder(path)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        refuse_other_files(path)
        lock = _acquire(path / _LOCK)
        try:
            folder = cls(path, _agree(path, settings), lock)
            # Others made those that name a machine.
            known = [made for made in folder.environments() if "machine" not in made]
            if known and (other := environment_differences([*known, folder._environment()])):
                warnings.warn(
                    f"The run in {path} goes on under other {other} than it began with: its last "
                    "digits may differ from those of an undisturbed run, and its facts say so.",
                    OtherEnvironmentWarning, stacklevel=3,
                )  # fmt: skip
        except BaseException:
            _release(lock)
            raise
        return folder

    @property
    def finished(self) -> bool:
        """True if ``finish`` was called, now or in an earlier run with the same settings."""
        return is_finished(read_run_file(self.path))

    def has_part(self, *names: str) -> bool:
        """True if all of these parts were written whole by this run."""
        # One that is damaged, or of a run with other settings, counts as missing.
        try:
            for name in names:
                read_part_file(self._part(name), self._settings_key, name)
        except UserError:
            return False
        return True

    def write_part(
        self, name: str, table: pd.DataFrame, environment: Environment | None = None
    ) -> None:
        """Keep a part of the run's work."""
        self.refuse_deleted()
        content = to_bytes(pa.Table.from_pandas(table, preserve_index=False))
        made_under = self._environment() if environment is None else environment
        write_bytes_part(self._part(name), self._settings_key, name, content, made_under)

    def read_part(self, name: str) -> pd.DataFrame:
        """A part as it was written."""
        return read_part_file(self._part(name), self._settings_key, name).to_pandas()

    def write_bytes(self, name: str, content: bytes) -> None:
        """Keep a part that is no table."""
        self.refuse_deleted()
        write_bytes_part(self._part(name), self._settings_key, name, content, self._environment())

    def read_bytes(self, name: str) -> bytes | None:
        """A part that is no table; None if it is missing, damaged or of another run."""
        try:
            return read_bytes_part(self._part(name), self._settings_key, name)
        except UserError:
            return None

    def environments(self) -> list[dict[str, Any]]:
        """Environments that the parts were made under, each once."""
        paths = sorted((self.path / _PARTS).glob("*.part"))
        return distinct(environment for path in paths if (environment := part_environment(path)))

    def refuse_changed(self, refuse: Callable[[], None]) -> None:
        """Refuse what was made of a model that changed meanwhile: the parts go."""
        try:
            refuse()
        except UserError:
            shutil.rmtree(self.path / _PARTS, ignore_errors=True)
            raise

    def finish(self, facts: Facts, others: Mapping[str, str] | None = None) -> None:
        """Say that all tables are written: ``run.json`` gets the facts and a list of the files."""
        # The parts go.
        self.refuse_deleted()
        whole = facts.model_copy(update={"settings": self.settings})
        files = file_hashes(self.path, written_files(self.path)) | dict(others or {})
        write_run_file(self.path, whole, files)
        shutil.rmtree(self.path / _PARTS, ignore_errors=True)

    def reopen(self) -> None:
        """Begin a finished run anew, some of whose files are lost: what is listed goes."""
        _begin(self.path, self.settings)
        for name in written_files(self.path):
            with disk_errors(self.path / name):
                (self.path / name).unlink()

    def refuse_deleted(self) -> None:
        """Refuse to go on in a folder that was deleted, moved or replaced meanwhile."""
        if not _is_at(self.lock, self.path / _LOCK):
            raise deleted_folder_error(self.path)

    @cached_property
    def _versions(self) -> dict[str, str]:
        return installed_versions()

    def _environment(self) -> dict[str, Any]:
        return environment_now(self._versions)

    @property
    def _settings_key(self) -> str:
        """The key of this run's parts."""
        return json.dumps(self.settings, sort_keys=True)

    def close(self) -> None:
        """Give the folder back; the parts stay for the next run unless it is finished."""
        _release(self.lock)

    def __enter__(self) -> RunFolder:
        self._used.enter_context(keep_deleted_folders_deleted(self.path))
        return self

    def __exit__(self, *raised: object) -> None:
        self._used.close()
        self.close()

    def _part(self, name: str) -> Path:
        quoted = quote(name, safe=" =,")
        if len(quoted) > _LONGEST:  # it is cut, with a hash to tell it apart
            quoted = f"{quoted[: _LONGEST - 65]} {hashlib.sha256(name.encode()).hexdigest()}"
        return self.path / _PARTS / f"{quoted}.part"


def _agree(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Clean up after a killed process; check the settings, or write them."""
    remove_temporaries(path)
    remove_temporaries(path / _PARTS)
    if not (path / RUN_FILE).exists():
        _begin(path, settings)
        return settings
    run = read_run_file(path)
    changed = "; ".join(differences(run["settings"], settings))
    if changed:
        raise UserError(
            f"{path} holds a run with other settings ({changed}): expected the same settings; "
            "choose another folder, or delete this one to start afresh."
        )
    if is_finished(run):  # a process killed within finish() may have left parts
        shutil.rmtree(path / _PARTS, ignore_errors=True)
    return kept_since(run["settings"], settings)


def kept_since(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new settings without those that came later than the old ones."""
    return {key: value for key, value in new.items() if key in old or key not in _LATER}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Differences between settings, nested entries included."""
    kept, without = kept_since(old, new), {"prompts_hash": None}
    # Prompts follow from all else, and the clock.
    alike = old | without == kept | without
    return _differences("", old, kept) if alike else _differences("", old | without, kept | without)


def _differences(within: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            lines += _differences(f"{within}{_WITHIN.get(key, key)} ", was, now)
        else:
            lines.append(f"{within}{_difference(key, was, now)}")
    return lines


def _difference(key: str, was: Any, now: Any) -> str:
    """A difference: of hashes what they are of, of items how many there are."""
    before, after = (_COUNTED.fullmatch(str(value)) for value in (was, now))
    if before and after:
        counts = f"{before[1]} items -> {after[1]} items"
        return f"{key}: {counts if before[1] != after[1] else 'other items'}"
    if _HASH.fullmatch(str(was)) and _HASH.fullmatch(str(now)):
        return _HASHED.get(key, f"{key.replace('_', ' ')} changed")
    texts = (json.dumps(value) for value in (was, now))
    short = [text if len(text) <= 60 else f"{text[:57]}..." for text in texts]
    return f"{key} was {short[0]} and is now {short[1]}"


def _begin(path: Path, settings: dict[str, Any]) -> None:
    write_run_file(path, {"finished": False, "settings": settings}, {})


def _acquire(path: Path) -> IO[str]:
    """Open and lock the lock file; the lock of a dead process is free by itself."""
    while True:
        with disk_errors(path):
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        _lock_or_refuse(file, path)
        if _is_at(file, path):
            break
        file.close()  # its owner finished and removed it between our opening and locking
    with contextlib.suppress(OSError):  # the number is for the other's message only
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _release(lock: IO[str]) -> None:
    if not lock.closed:
        if _is_at(lock, Path(lock.name)):  # it may be another's, in a folder that was made anew
            Path(lock.name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            lock.close()


def _lock_or_refuse(file: IO[str], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(20).strip() or "unknown"
        file.close()
        raise UserError(
            f"{path.parent} is in use by another run (process {owner}): expected a folder that "
            "no run is writing to; wait until it ends, or choose another folder."
        ) from error
    except OSError:  # a file system without locks
        return
