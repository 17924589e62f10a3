"""A worker of ``RayExecutor``: a process of its own, with models that it loads by name.

It is told a job once, then makes its pieces by number. What goes in and out are plain values and
bytes; a mistake comes back as a sentence, so that only a lost process is an error to Ray.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from layerwise.errors import UserError
from layerwise.ground.process import collect_garbage_rarely, keep_texts_as_objects, settle
from layerwise.storage.provenance import installed_versions

from .checkpoints import environment_now
from .encoding import EncodingCache
from .travel import table_to_bytes, unpack


class RayWorker:
    """Loads models by name, and makes pieces of a job."""

    def __init__(self, threads: int, device: str) -> None:
        import torch

        torch.set_num_threads(threads)
        collect_garbage_rarely()
        keep_texts_as_objects()
        self._device = device  # where models go
        self._wanted: list[dict[str, Any]] = []
        self._models: list[Any] = []
        self._built = EncodingCache()
        self._make: Any = None
        self._asked: list[tuple[Any, ...]] = []

    def begin(self, job: bytes, models: list[dict[str, Any]], version: str) -> dict[str, Any]:
        """Take over a job."""
        machine = platform.node()
        own_version = metadata.version("layerwise")
        if own_version != version:
            return {"refused": f"{machine} has layerwise {own_version}, and this process {version}"}
        try:
            self._load(models)
            self._make, self._asked = unpack(job, self._models, self._built)
        except UserError as error:
            return {"refused": f"on {machine}: {error}"}
        except Exception as error:
            return {"refused": f"on {machine}: {type(error).__name__}: {error}"}
        import torch

        cuda = self._device.startswith("cuda")
        device = torch.cuda.get_device_name(self._device) if cuda else self._device
        return {
            "machine": machine,
            "device": device,
            "environment": {"machine": machine, **environment_now(installed_versions())},
        }

    def make(self, number: int) -> dict[str, Any]:
        """Make a piece."""
        from layerwise.models.instance.exclusive import own_state

        try:
            with own_state():
                tables = self._make(*self._asked[number])
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        return {"tables": {name: table_to_bytes(table) for name, table in tables.items()}}

    def _load(self, models: list[dict[str, Any]]) -> None:
        from layerwise.models import load_model, model_facts

        if models == self._wanted:
            return
        self._wanted, self._models, self._built = [], [], EncodingCache()
        for wanted in models:
            how = {name: value for name, value in wanted.items() if name != "hash"}
            model = load_model(**how, device=self._device)
            own_hash = model_facts(model).hash
            if own_hash != wanted["hash"]:
                raise UserError(
                    f"{how['name']!r} has other weights there (hash {own_hash[:12]}, and "
                    f"{wanted['hash'][:12]} in this process): expected the same on all machines; "
                    "copy the files again, or clear the cache there."
                )
            self._models.append(model)
        self._wanted = models
        settle()
