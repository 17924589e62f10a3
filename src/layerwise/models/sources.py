"""From the name a user gives to a local folder in hub format.

Bundled alias, GGUF file, local folder and hub id all end here; nothing is loaded yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layerwise.errors import UserError, unknown_name
from layerwise.models.cache import file_sha256
from layerwise.models.gguf_files import folder_of_gguf
from layerwise.models.hub import download, download_outline, is_hub_id
from layerwise.models.loaded import SourceKind
from layerwise.models.registry import BUNDLED, WIRED_MODELS, PackagedModel


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: the name it was asked for by.
        kind: what that name was.
        folder: a local folder in hub format.
    """

    name: str
    kind: SourceKind
    folder: Path


def find_source(name: str) -> Source:
    """Find, and if need be convert or download, the model of that name.

    An alias goes before a path of the same spelling, a path before a hub id.

    Raises:
        UserError: if there is no such model, or it cannot be fetched or converted.
    """
    return _find(name, download)


def find_outline(name: str) -> Source:
    """As ``find_source``, but of a hub model no weights are downloaded."""
    return _find(name, download_outline)


def _find(name: str, fetch: Callable[[str], Path]) -> Source:
    bundled = BUNDLED.get(name)
    if isinstance(bundled, PackagedModel):
        _refuse_other_weights(bundled)
        return Source(name, "bundled", bundled.folder)
    if bundled is not None:
        folder = folder_of_gguf(bundled.path(), expected_sha256=bundled.file_sha256)
        return Source(name, "bundled", folder)
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, "folder", path)
    if path.exists():
        return Source(name, "gguf", folder_of_gguf(path))
    if _looks_like_a_path(name):
        raise UserError(
            f"There is no file or folder {name!r}: expected a GGUF file or a folder in hub "
            "format; check the path."
        )
    if is_hub_id(name):
        return Source(name, "hub", fetch(name))
    raise unknown_name(
        "model", name, [*BUNDLED.names(), *WIRED_MODELS, "a hub id owner/name", "a path"]
    )


def _refuse_other_weights(model: PackagedModel) -> None:
    path = model.locate()
    if path is None or file_sha256(path) != model.weights_sha256:
        raise UserError(
            f"The weights of {model.name!r} in {model.folder} are missing or changed: expected a "
            f"model.safetensors of SHA-256 {model.weights_sha256}; reinstall layerwise."
        )


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1
