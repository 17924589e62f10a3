"""Models on the Hugging Face hub: downloaded to the hub's own cache, then a folder like any other.

Only safetensors weights, configurations and tokenizer files are fetched; never code or pickles.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from layerwise.errors import UserError
from layerwise.models.files.cache import BESIDE_WEIGHTS, contents_sha256
from layerwise.models.files.folder import has_weights

_OUTLINE = tuple(f"*{ending}" for ending in BESIDE_WEIGHTS)
_WANTED = ("*.safetensors", *_OUTLINE)
# Subfolders hold other formats, and consolidated files the same weights once more.
_UNWANTED = ["*/*", "consolidated*"]
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_SHA256 = re.compile("[0-9a-f]{64}$")
_LONGEST = 96  # characters, by the hub's own rule


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``owner/name``."""
    return len(name) <= _LONGEST and _HUB_ID.fullmatch(name) is not None


def download(hub_id: str) -> Path:
    """The folder of a hub model, fetched now or earlier."""
    # ``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to huggingface_hub.
    return _fetch(hub_id, _WANTED)


def download_without_weights(hub_id: str) -> Path:
    """As ``download``, but without weights, unless these were fetched earlier."""
    return _fetch(hub_id, _OUTLINE)


def cached(hub_id: str) -> Path:
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


def has_hashed_weights(folder: Path) -> bool:
    """Whether the weights in a folder are files of a hub cache, named by their own SHA-256."""
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
        if not _is_about_the_network(error):
            raise _not_written(hub_id, error) from error
        raise UserError(
            f"Model {hub_id!r} is not in the local hub cache and the hub cannot be reached: "
            "expected a network connection (and HF_HUB_OFFLINE unset); connect, or give a local "
            "folder."
        ) from error


def _is_about_the_network(error: Exception) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError

    # The HTTP library underneath changed its name more than once over the supported versions.
    library = type(error).__module__.partition(".")[0]
    network = (LocalEntryNotFoundError, ConnectionError, TimeoutError)
    return isinstance(error, network) or library in {"httpx", "httpx2", "httpcore", "requests"}


def _not_written(hub_id: str, error: Exception) -> Exception:
    if not isinstance(error, OSError):
        return error
    return UserError(
        f"Model {hub_id!r} cannot be stored ({error.strerror or error}): expected a writable hub "
        "cache with room for it; make room, or set HF_HOME to another folder."
    )
