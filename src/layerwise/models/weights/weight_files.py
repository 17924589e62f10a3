"""A decoder's weights in the cache folder: one safetensors file for each block and other part.

Written once from a model in memory, and read one part at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from layerwise.errors import UserError
from layerwise.ground.regular_files import read_regular, refuse_irregular
from layerwise.models.files.cache import (
    atomic_folder,
    cache_dir,
    contents_sha256,
    json_checksum,
)

from .strides import Weight, storage_order

_INDEX = "index.json"
BUFFERS = "buffers"
"""The part that holds what is as much a weight as a parameter, and is none."""


class Place(NamedTuple):
    """Place of the weight of a parameter."""

    name: str  # the parameter's, or the buffer's, full name in the model
    part: str  # the part in whose file it is; the embedding's for an unembedding tied to it
    key: str  # its name in that file
    order: tuple[int, ...]  # which dimension in the file each dimension of the parameter is


class WeightFiles:
    """The weights of one model in a folder."""

    # A part is a block, such as ``blocks.7``, or a module outside of them, such as ``embed``, or
    # ``BUFFERS``.

    def __init__(
        self,
        folder: Path,
        places: Mapping[str, tuple[Place, ...]],
        n_parameters: int,
        hashes: Mapping[str, str],
    ) -> None:
        # n_parameters: number of parameters of the original, shared ones counted once.
        self.folder, self.places, self.n_parameters = folder, places, n_parameters
        # SHA-256 of the file of each part. A file is compared when it is read first in a process,
        # and again if its size or a time of change are others than then.
        self.hashes = hashes

    def read(self, part: str, device: torch.device) -> dict[str, Weight]:
        """The weights of a part by parameter name, stored as the forward pass reads them."""
        # On the CPU they are the mapped file: they take memory as they are looked at, and give it
        # back with the last tensor. Changing them does not change the file.
        weights: dict[str, torch.Tensor] = {}
        with _refuse_damage(self.folder):
            for source, places in groupby(self.places[part], key=lambda place: place.part):
                if contents_sha256(self._file(source)) != self.hashes[source]:
                    raise ValueError(f"{source}.safetensors has another SHA-256")
                with safe_open(self._file(source), "pt", device=str(device)) as stored:
                    for place in places:
                        weights[place.name] = stored.get_tensor(place.key).permute(place.order)
        return weights

    def prefetch(self, part: str) -> None:
        """Let the system read a part into its own file cache, if it can, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            # Whoever reads the part is told what is wrong with it.
            with contextlib.suppress(OSError), self._file(part).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def _file(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"


@contextlib.contextmanager
def _refuse_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise damage_error(folder, " ".join(reason.split())[:200]) from error


def damage_error(folder: Path, reason: str) -> UserError:
    """The sentence for off-loaded weights that cannot be used."""
    return UserError(
        f"The off-loaded weights in {folder} cannot be read ({reason}): expected the files that "
        "layerwise wrote there; delete that folder and load the model again, which once needs "
        "memory for all of its weights."
    )


def find_weights(digest: str) -> WeightFiles | None:
    """The weights with that hash, or None if they were not written yet."""
    folder = _folder(digest)
    if not folder.is_dir():
        return None
    with _refuse_damage(folder):
        index = json.loads(read_regular(folder / _INDEX))
        if index.pop("sha256", None) != json_checksum(index):
            raise ValueError(f"{_INDEX} has another SHA-256, or none")
        places = {
            part: tuple(Place(name, source, key, tuple(order)) for name, source, key, order in rows)
            for part, rows in index["places"].items()
        }
        files = WeightFiles(folder, places, int(index["n_parameters"]), dict(index["files"]))
        for part in places:
            # A file that is missing or not whole is told at once, weights when they are read.
            refuse_irregular(folder / f"{part}.safetensors")
            with safe_open(folder / f"{part}.safetensors", "pt"):
                pass
    return files


def write_weights(
    weights: Mapping[str, Mapping[str, Weight]],
    embedding: Weight,
    digest: str,
    n_parameters: int,
) -> WeightFiles:
    """Write the weights of a model in memory, by part and full name, whole or not at all."""
    with atomic_folder(_folder(digest)) as folder:
        places = {
            part: _write_part(folder / f"{part}.safetensors", part, named, embedding)
            for part, named in weights.items()
        }
        files = {part: contents_sha256(folder / f"{part}.safetensors") for part in places}
        index = {"n_parameters": n_parameters, "places": places, "files": files}
        sealed = index | {"sha256": json_checksum(index)}
        (folder / _INDEX).write_text(json.dumps(sealed), "utf-8")
    written = find_weights(digest)
    assert written is not None
    return written


def _folder(digest: str) -> Path:
    return cache_dir() / "offload" / digest


def _write_part(
    path: Path, part: str, weights: Mapping[str, Weight], embedding: Weight
) -> list[Place]:
    """Write the file of a part; an unembedding that equals the embedding is not written again."""
    stored: dict[str, torch.Tensor] = {}
    places: list[Place] = []
    for name, weight in weights.items():
        outward = storage_order(weight)
        plain = weight.detach().permute(outward).contiguous().cpu()
        order = tuple(sorted(range(len(outward)), key=outward.__getitem__))
        if name == "unembed.W_U" and torch.equal(plain, embedding.detach().cpu()):
            places.append(Place(name, "embed", "embed.W_E", order))
        else:
            places.append(Place(name, part, name, order))
            stored[name] = plain
    path.write_bytes(_aligned_safetensors(stored))
    return places


def _aligned_safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    """A safetensors file whose data begin where torch's own memory would, at 64 bytes."""
    # Matrix products round otherwise elsewhere.
    filling = -(8 + int.from_bytes(save(tensors, {"fill": ""})[:8], "little")) % 64
    return save(tensors, {"fill": " " * filling})
