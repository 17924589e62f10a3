"""The list that a folder keeps of its files, each with its SHA-256, and what became of them since.

The list is within the JSON file that describes the folder, under ``files``, and that file is itself
in it: by the hash of everything else that it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from layerwise.errors import DamagedResultsError
from layerwise.ground.regular_files import open_regular, read_regular

State = Literal["ok", "changed", "missing", "not kept"]
FILES = "files"
# Names, one a line, of listed files that were left out of a folder on purpose.
NOT_KEPT_FILE = "not_kept.txt"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 by name of those files of a folder that are there."""
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def files_without(content: Mapping[str, Any], own_name: str) -> dict[str, str]:
    """The list within a folder's JSON file, without that file."""
    return {name: digest for name, digest in content[FILES].items() if name != own_name}


def with_list(content: Mapping[str, Any], own_name: str, files: Mapping[str, str]) -> bytes:
    """Content of a folder's JSON file, with a list of files and its own hash, as JSON text."""
    whole = json.loads(json.dumps({**content, FILES: dict(sorted(files.items()))}))
    whole[FILES][own_name] = _own_hash(whole, own_name)
    return json.dumps(whole, indent=2, ensure_ascii=False).encode(errors="backslashreplace")


def refuse_edited_file_list(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a folder's JSON file without a list of files, or changed after it was written."""
    if FILES not in content:
        raise DamagedResultsError(
            f"{path} has no list of files with their SHA-256: expected what this version of "
            "layerwise writes; restore it, or delete the folder and give the same command again."
        )
    files = content[FILES]
    if isinstance(files, dict) and files.get(path.name) == _own_hash(content, path.name):
        return
    raise DamagedResultsError(
        f"{path} was changed after it was written (its own SHA-256 in it differs): expected what "
        "layerwise wrote; restore it, or delete the folder and give the same command again."
    )


def states(folder: Path, files: Mapping[str, str]) -> dict[str, State]:
    """States of listed files by name; files left out on purpose are marked."""
    left_out = omitted_files(folder)
    return {name: _state(folder / name, digest, left_out) for name, digest in files.items()}


def omitted_files(folder: Path) -> list[str]:
    """Names of the files that a folder says were left out of it on purpose."""
    try:
        lines = read_regular(folder / NOT_KEPT_FILE).decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]


def _state(path: Path, digest: str, left_out: Iterable[str]) -> State:
    try:
        return "ok" if file_sha256(path) == digest else "changed"
    except FileNotFoundError:
        return "not kept" if path.name in left_out else "missing"
    except OSError:  # a folder or a pipe in its place, or not to be read
        return "changed"


def _own_hash(content: Mapping[str, Any], own_name: str) -> str:
    others = {name: digest for name, digest in content[FILES].items() if name != own_name}
    text = json.dumps({**content, FILES: others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
