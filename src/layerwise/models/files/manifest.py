"""The manifest of a conversion: its files' hashes, kept beside them and compared at each load."""

from __future__ import annotations

import json
from pathlib import Path

from layerwise.errors import UserError
from layerwise.ground.regular_files import read_regular

from .cache import checksum_of, contents_sha256

# Not among the endings of files that belong to a model, so that nothing copies or hashes it.
_MANIFEST = "conversion.manifest"


def write_manifest(folder: Path) -> None:
    """Write down the hash of every file in a folder that was just made."""
    files = {path.name: contents_sha256(path) for path in sorted(folder.iterdir())}
    content = json.dumps({"files": files, "sha256": checksum_of(files)}, indent=1)
    (folder / _MANIFEST).write_text(content, "utf-8")


def is_conversion(folder: Path) -> bool:
    """True if a folder holds a conversion with its manifest."""
    return (folder / _MANIFEST).is_file()


def conversion_hash(folder: Path, *, read_weights: bool = True) -> str:
    """SHA-256 over the hashes of a conversion's files, which are read and compared."""
    try:
        manifest = json.loads(read_regular(folder / _MANIFEST))
        files, checksum = manifest["files"], manifest["sha256"]
        if checksum != checksum_of(files):
            raise _damaged(folder, _MANIFEST)
        names = {path.name for path in folder.iterdir()} - {_MANIFEST}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise error if isinstance(error, UserError) else _damaged(folder, _MANIFEST) from error
    for name in sorted(names | files.keys()):
        unread = not read_weights and name.endswith(".safetensors")
        if name not in names or not (unread or _is(folder / name, files.get(name))):
            raise _damaged(folder, name)
    return checksum


def _is(path: Path, digest: str | None) -> bool:
    """Whether a file has that SHA-256; not if it cannot be read."""
    try:
        return contents_sha256(path) == digest
    except OSError:
        return False


def _damaged(folder: Path, name: str) -> UserError:
    return UserError(
        f"The converted model in {folder} is damaged ({name} is not what was written there): "
        "expected the files as they were converted; delete that folder, and the model is "
        "made again from what it was made of at the next load."
    )
