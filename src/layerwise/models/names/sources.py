"""From the name a user gives to a local folder in hub format.

Bundled alias, GGUF file, local folder and hub id all end here; nothing is loaded yet.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from layerwise.errors import UserError, unknown_name
from layerwise.ground.regular_files import IrregularFileError, refuse_irregular
from layerwise.models.files.adapter_files import Adapter, is_adapter, read_adapter
from layerwise.models.files.cache import (
    BESIDE_WEIGHTS,
    contents_sha256,
    conversion_hash,
    file_sha256,
    folder_sha256,
    record_key,
)
from layerwise.models.huggingface.folder import has_weights
from layerwise.models.instance.source import Source

from .gguf_files import folder_of_gguf
from .registry import BUNDLED, WIRED_MODELS, PackagedModel

_OUTLINE = tuple(f"*{ending}" for ending in BESIDE_WEIGHTS)
_WANTED = ("*.safetensors", *_OUTLINE)
# Subfolders hold other formats, and consolidated files the same weights once more.
_UNWANTED = ["*/*", "consolidated*"]
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_SHA256 = re.compile("[0-9a-f]{64}$")
_LONGEST = 96  # characters, by the hub's own rule


def _download(hub_id: str) -> Path:
    """The folder of a hub model with its weights, fetched now or earlier."""
    return _fetch(hub_id, _WANTED)


def _cached_hub_folder(hub_id: str) -> Path:
    """The folder of a hub model that was fetched earlier, with its weights."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        folder = Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True))
        if has_weights(folder):
            return folder
    raise UserError(
        f"Model {hub_id!r} is not on this machine, and only models that you name yourself are "
        f"fetched: expected it in the hub's cache; run `layerwise models {hub_id}`, which fetches "
        "it, or have the adapter name a local folder."
    )


def _has_hashed_weights(folder: Path) -> bool:
    """True if the weights in a folder are files of a hub cache, named by their own SHA-256."""
    # Every such file is read and compared with its name.
    weights = [Path(os.path.realpath(path)) for path in folder.glob("*.safetensors")]
    hashed = [path for path in weights if path.parent.name == "blobs" and _SHA256.match(path.name)]
    for path in hashed:
        if contents_sha256(path) != path.name:
            raise UserError(
                f"The weights of the model in {folder} are damaged: expected {path} to have the "
                "SHA-256 that is its name; delete that file, and fetch the model again."
            )
    return bool(weights) and len(hashed) == len(weights)


def _fetch(hub_id: str, wanted: Sequence[str]) -> Path:
    # ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to huggingface_hub.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, allow_patterns=list(wanted), ignore_patterns=_UNWANTED
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"Model {hub_id!r} is gated: expected an account that was granted access; ask for it "
            f"at https://huggingface.co/{hub_id}, then run 'hf auth login' or set HF_TOKEN."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"There is no model {hub_id!r} on the hub, or it is private: expected owner/name as "
            "on huggingface.co; check the spelling, or set HF_TOKEN for a private one."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise UserError(
            f"The hub refused model {hub_id!r} with HTTP status {status}: expected its files; try "
            "again later, or give a local folder."
        ) from error
    except Exception as error:
        # The HTTP library underneath changed its name more than once over the supported versions.
        library = type(error).__module__.partition(".")[0]
        network = (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)
        reached = not isinstance(error, network)
        if reached and library not in {"httpx", "httpx2", "httpcore", "requests"}:
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"Model {hub_id!r} cannot be stored ({error.strerror or error}): expected a "
                "writable hub cache with room for it; make room, or set HF_HOME to another folder."
            ) from error
        raise UserError(
            f"Model {hub_id!r} is not in the local hub cache and the hub cannot be reached: "
            "expected a network connection (and HF_HUB_OFFLINE unset); connect, or give a local "
            "folder."
        ) from error


_CHAT_TEMPLATES = "additional_chat_templates/*"
_SHOWN = 200  # characters of a name in an error's sentence


def find_source(name: str) -> Source:
    """Find, and if need be convert or download, the model of that name; its files are read once."""
    # An alias goes before a path of the same spelling, a path before a hub id.
    return _find(name, _download, read_weights=True)


def find_without_weights(name: str) -> Source:
    """As ``find_source``, but weights are neither downloaded from the hub nor compared."""
    return _find(name, lambda hub_id: _fetch(hub_id, _OUTLINE), read_weights=False)


def _find(name: str, fetch: Callable[[str], Path], *, read_weights: bool) -> Source:
    bundled = BUNDLED.get(name)
    if isinstance(bundled, PackagedModel):
        _refuse_other_files(bundled)
        return Source(name, "bundled", bundled.folder, verified="files have the pinned SHA-256")
    if bundled is not None:
        path = bundled.path()
        folder = folder_of_gguf(path, expected_sha256=bundled.file_sha256)
        checked = "GGUF file has the pinned SHA-256, its conversion the recorded one"
        source = Source(name, "bundled", folder, verified=checked)
        return _conversion_source(source, path, read_weights=read_weights)
    path = _path(name)
    if path is not None and path.is_dir():
        return _folder_source(Source(name, "folder", path), read_weights=read_weights)
    if path is not None and path.exists():
        checked = "conversion of the GGUF file has the recorded SHA-256"
        source = Source(name, "gguf", folder_of_gguf(path), verified=checked)
        return _conversion_source(source, path, read_weights=read_weights)
    if name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise UserError(
            f"There is no file or folder {_shortened_name(name)}: expected a GGUF file or "
            f"a folder in hub "
            "format; check the path."
        )
    if len(name) <= _LONGEST and _HUB_ID.fullmatch(name):
        return _folder_source(Source(name, "hub", fetch(name)), read_weights=read_weights)
    known = [*BUNDLED, *WIRED_MODELS, "a hub id owner/name", "a path"]
    raise unknown_name("model", name[:_SHOWN], known)


def _folder_source(source: Source, *, read_weights: bool) -> Source:
    _refuse_irregular_files(source.folder)
    if is_adapter(source.folder):
        return _adapter_source(source, read_weights=read_weights)
    if read_weights and _has_hashed_weights(source.folder):
        return replace(source, verified="weights have the SHA-256 that the hub names them by")
    return source


def _refuse_irregular_files(folder: Path) -> None:
    """Refuse a pipe or a device among the files that transformers may open, and would wait for."""
    for path in (*folder.iterdir(), *folder.glob(_CHAT_TEMPLATES)):
        try:
            refuse_irregular(path)
        except IrregularFileError as error:
            raise UserError(
                f"{path} is {error.strerror}: expected a folder of ordinary files; replace it by "
                "a file, or remove it."
            ) from error
        except OSError:  # a folder, or a link to nothing: who needs the file says so
            continue


def _conversion_source(source: Source, path: Path, *, read_weights: bool) -> Source:
    digest = conversion_hash(source.folder, read_weights=read_weights)
    return replace(
        source, file_hash=file_sha256(path), conversion_hash=digest, gguf=Path(path).stem
    )


def _adapter_source(source: Source, *, read_weights: bool) -> Source:
    """An adapter merged into its base, which needs the weights of both."""
    from .adapter_merge import merged_folder

    adapter = read_adapter(source.folder)
    _has_hashed_weights(source.folder)  # those of the hub's cache must be what they are named by
    # Who names an adapter on the hub asks for its base, too; who names a folder does not.
    base = _adapter_base(adapter, _download if source.kind == "hub" else _cached_hub_folder)
    both = (base.file_hash or folder_sha256(base.folder), folder_sha256(source.folder))
    digest = record_key(both)
    folder = merged_folder(adapter, base.folder, digest)
    return replace(
        source,
        folder=folder,
        file_hash=digest,
        conversion_hash=conversion_hash(folder, read_weights=read_weights),
        verified="merge of adapter and base has the recorded SHA-256",
        adapter=f"{adapter.words}, merged into {base.name}",
    )


def _adapter_base(adapter: Adapter, fetch: Callable[[str], Path]) -> Source:
    """The model that an adapter names: an alias, a path from its folder on, or a hub id."""

    def fetch_whole(hub_id: str) -> Path:
        folder = fetch(hub_id)
        _refuse_adapted_adapter(adapter, folder)
        return folder

    path, name = _path(adapter.base), adapter.base
    near = None if path is None else _path(str(adapter.folder / path))
    if name not in BUNDLED and near is not None and near.exists():
        name = str(near.resolve())
        _refuse_adapted_adapter(adapter, near)
    try:
        source = _find(name, fetch_whole, read_weights=True)
    except UserError as error:
        raise UserError(
            f"The base of the adapter in {adapter.folder}, {adapter.base[:_SHOWN]!r} by its "
            f"adapter_config.json, cannot be had: {error}"
        ) from error
    if source.kind == "hub" and adapter.fields.get("revision") not in (None, "main"):
        raise UserError(
            f"The adapter in {adapter.folder} is for a certain revision of its base "
            f"{adapter.base!r}: expected the newest; fetch that revision to a folder, and name "
            "that as base_model_name_or_path."
        )
    return source


def _refuse_adapted_adapter(adapter: Adapter, base: Path) -> None:
    if is_adapter(base):
        raise UserError(
            f"The base of the adapter in {adapter.folder} is an adapter itself ({base}): "
            "expected a whole model; merge that first with peft's merge_and_unload()."
        )


def _path(name: str) -> Path | None:
    """The path of that name; None if no file can have such a name."""
    try:
        path = Path(name).expanduser()
        path.exists()
    # A name that is too long, holds a NUL or names the home of nobody.
    except (OSError, ValueError, RuntimeError):
        return None
    return path


def _shortened_name(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "...")


def _refuse_other_files(model: PackagedModel) -> None:
    path = model.locate()
    if path is None and model.install and not model.folder.exists():
        raise UserError(
            f"Model {model.name!r} needs the package layerwise-organisms, which is not installed "
            f"here; install it with: {model.install}"
        )
    if path is None or contents_sha256(path) != model.weights_sha256:
        raise UserError(
            f"The weights of {model.name!r} in {model.folder} are missing or changed: expected a "
            f"model.safetensors of SHA-256 {model.weights_sha256}; reinstall layerwise."
        )
    if model.files_sha256 != folder_sha256(model.folder):
        raise UserError(
            f"Files of {model.name!r} in {model.folder} are missing, changed or were added: "
            f"expected those that layerwise came with (SHA-256 {model.files_sha256} over all); "
            "reinstall layerwise."
        )
