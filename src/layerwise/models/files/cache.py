"""The cache folder: hashes of files, small records that save work at the next load, whole folders.

Losing the folder loses nothing but time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from layerwise.errors import UserError
from layerwise.ground.regular_files import open_regular, read_regular

BESIDE_WEIGHTS = (
    ".json", ".txt", ".jinja", ".model", ".spm", ".tiktoken", ".codes", ".tokenizer",
)  # fmt: skip
"""Endings of a model's files beside its weights: configurations, chat templates, vocabularies."""
_STALE_AFTER = 3600.0  # seconds
_SETTLED_AFTER = 2.0  # seconds


def cache_dir() -> Path:
    """Folder of converted models and records; ``LAYERWISE_CACHE`` overrides it."""
    given = os.environ.get("LAYERWISE_CACHE")
    return Path(given or platformdirs.user_cache_dir("layerwise")).expanduser()


def record_key(parts: Iterable[str]) -> str:
    """A file name for a record that depends on all ``parts``, in their order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def read_record(kind: str, key: str) -> dict[str, Any] | None:
    """A record, or None if there is none that is whole."""
    try:
        kept = json.loads(read_regular(cache_dir() / kind / f"{key}.json"))
        record, checksum = kept["record"], kept["sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) and checksum == json_checksum(record) else None


def write_record(kind: str, key: str, record: dict[str, Any]) -> None:
    """Keep a record; where the cache folder cannot be written, nothing is kept."""
    folder = cache_dir() / kind
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{uuid.uuid4().hex}.partial"
        try:
            content = json.dumps({"record": record, "sha256": json_checksum(record)})
            partial.write_text(content, "utf-8")
            os.replace(partial, folder / f"{key}.json")
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def json_checksum(content: Any) -> str:
    """SHA-256 of a value that can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered in the cache folder by path, size and times of change."""
    # For files whose contents are not read otherwise; damage on the disk itself is not seen.
    path = _resolve(path)
    key, stamp = record_key([str(path)]), _stamp(path)
    record = read_record("hashes", key)
    if record and record.get("stamp") == stamp and isinstance(record.get("sha256"), str):
        return record["sha256"]
    digest = contents_sha256(path)
    write_record("hashes", key, {"stamp": stamp, "sha256": digest})
    return digest


def contents_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, which are read at least once by each process."""
    # They are read again when size, inode or a time of change say that they may be others, the time
    # of the last change of the inode among them, which nobody can set back.
    real = _resolve(path)
    try:
        stamp = _stamp(real)
        known = _contents.get(real)
        if known is not None and known[0] == stamp:
            return known[1]
        with open_regular(real) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # A change within one tick of the file system's clock would leave the stamp as it is.
        if time.time() - real.stat().st_ctime > _SETTLED_AFTER:
            _contents[real] = (stamp, digest)
        return digest
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): expected a file, or nothing of "
            "that name; restore it, or remove it."
        ) from error


def _resolve(path: Path) -> Path:
    """The path behind links; a link to itself stays, and cannot be read."""
    return Path(os.path.realpath(path))


_contents: dict[Path, tuple[list[int], str]] = {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a model folder: of the names and contents of all files that matter to it."""
    matters = (*BESIDE_WEIGHTS, ".safetensors")
    files = sorted(path for path in folder.iterdir() if path.suffix in matters)
    files += sorted(folder.glob("additional_chat_templates/*.jinja"))
    return record_key(part for path in files for part in (path.name, contents_sha256(path)))


def restore_permissions(folder: Path) -> None:
    """Set the default permissions on a folder and its files."""
    # safetensors and temporary folders let the owner alone read what is written.
    probe = folder / "probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    with contextlib.suppress(PermissionError):  # some file systems keep none
        folder.chmod(0o700 | mode | (mode & 0o444) >> 2)  # who may read it may also enter it
        for path in folder.iterdir():
            if path.is_file():
                path.chmod(mode)


def _discard(folder: Path) -> None:
    """Remove a folder, if it is there, at one stroke for whoever looks for it."""
    if folder.exists():
        try:
            aside = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
            folder.rename(aside / folder.name)
        except OSError as error:
            raise _unwritable(folder, error) from error
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` once it is complete and is removed otherwise."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob("partial-*"):
            if time.time() - leftover.stat().st_mtime > _STALE_AFTER:
                shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield partial
        restore_permissions(partial)
        # Another process may have been faster; its folder has the same content.
        if not folder.is_dir():
            partial.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The converted model cannot be written to {folder.parent} ({error.strerror or error}): "
        "expected a writable folder with room for its weights; make room, or set "
        "LAYERWISE_CACHE to another folder."
    )


# Not among the endings of files that belong to a model, so that nothing copies or hashes it.
_MANIFEST = "conversion.manifest"


def _write_manifest(folder: Path) -> None:
    """Write down the hash of every file in a folder that was just made."""
    files = {path.name: contents_sha256(path) for path in sorted(folder.iterdir())}
    content = json.dumps({"files": files, "sha256": json_checksum(files)}, indent=1)
    (folder / _MANIFEST).write_text(content, "utf-8")


def cached_folder(kind: str, digest: str, write: Callable[[Path], None]) -> Path:
    """The folder that ``write`` filled, now or earlier; it appears when it is complete."""
    folder = cache_dir() / kind / digest
    if not (folder / _MANIFEST).is_file():
        _discard(folder)
        with atomic_folder(folder) as partial:
            write(partial)
            _write_manifest(partial)
    return folder


def conversion_hash(folder: Path, *, read_weights: bool = True) -> str:
    """SHA-256 over the hashes of a conversion's files, which are read and compared."""
    try:
        manifest = json.loads(read_regular(folder / _MANIFEST))
        files, checksum = manifest["files"], manifest["sha256"]
        if checksum != json_checksum(files):
            raise _damage_error(folder, _MANIFEST)
        names = {path.name for path in folder.iterdir()} - {_MANIFEST}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise error if isinstance(error, UserError) else _damage_error(folder, _MANIFEST) from error
    for name in sorted(names | files.keys()):
        unread = not read_weights and name.endswith(".safetensors")
        if name in names and (unread or contents_sha256(folder / name) == files.get(name)):
            continue
        raise _damage_error(folder, name)
    return checksum


def _damage_error(folder: Path, name: str) -> UserError:
    return UserError(
        f"The converted model in {folder} is damaged ({name} is not what was written there): "
        "expected the files as they were converted; delete that folder, and the model is "
        "made again from what it was made of at the next load."
    )
