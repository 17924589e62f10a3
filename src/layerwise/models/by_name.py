"""How another process loads the very model that this one has: by its name, never its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from layerwise.errors import UserError, shown
from layerwise.models.facts import origin_of, weights_hash
from layerwise.models.kinds import Model
from layerwise.models.offload import blocks_on_disk
from layerwise.models.structure import Version, version_of

# Hashing takes a second a gigabyte, and every part of a run asks.
_HASHES: WeakKeyDictionary[torch.nn.Module, tuple[Version, str]] = WeakKeyDictionary()


def loading_of(model: Model) -> dict[str, str | None]:
    """What ``load_model`` is to be called with for this model, but for the device."""
    origin = origin_of(model)
    if origin is None or origin.facts.source == "user":
        raise UserError(
            f"The model {shown(str(model.cfg.model_name))} was passed as an object, and Ray's "
            "workers load models by name; expected one from layerwise.load_model(name). Save it "
            "as a folder in hub format and load it by that path, or leave the executor out."
        )
    facts = origin.facts
    named = facts.source in ("folder", "gguf")
    return {
        "name": str(Path(facts.name).expanduser().resolve()) if named else facts.name,
        "dtype": str(model.W_E.dtype).removeprefix("torch."),
        "backend": facts.backend,
        "offload": None if blocks_on_disk(model) is None else "disk",
    }


def hash_now(model: Model) -> str:
    """The hash of a model's weights (``weights_hash``), taken anew only where they were changed."""
    version = version_of(model)
    known = _HASHES.get(model)
    if known is None or known[0] != version:
        known = _HASHES[model] = version, weights_hash(model)
    return known[1]


def described(model: Model) -> dict[str, Any]:
    """``loading_of`` a model, and the ``hash`` that its weights have."""
    return {**loading_of(model), "hash": hash_now(model)}
