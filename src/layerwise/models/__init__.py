"""Models: a name becomes a hooked model that is known to equal its original.

Everything that needs torch is imported on first use, so that listing models stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerwise.models.loaded import LoadedFacts as LoadedFacts
from layerwise.models.loaded import SourceKind as SourceKind
from layerwise.models.registry import DEFAULT_MODEL as DEFAULT_MODEL
from layerwise.models.registry import KnownModel as KnownModel
from layerwise.models.registry import known_models as known_models

if TYPE_CHECKING:
    from layerwise.models.bridge import from_bridge as from_bridge
    from layerwise.models.facts import model_facts as model_facts
    from layerwise.models.facts import original_tokenizer as original_tokenizer
    from layerwise.models.facts import weights_hash as weights_hash
    from layerwise.models.load import load_model as load_model
    from layerwise.models.strides import restride as restride

_LAZY = {
    "from_bridge": "layerwise.models.bridge",
    "load_model": "layerwise.models.load",
    "model_facts": "layerwise.models.facts",
    "original_tokenizer": "layerwise.models.facts",
    "restride": "layerwise.models.strides",
    "weights_hash": "layerwise.models.facts",
}

__all__ = [
    "DEFAULT_MODEL",
    "KnownModel",
    "LoadedFacts",
    "SourceKind",
    "from_bridge",
    "known_models",
    "load_model",
    "model_facts",
    "original_tokenizer",
    "restride",
    "weights_hash",
]


def __getattr__(name: str) -> Any:
    if name == "organisms":
        return import_module("layerwise.models.organisms")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
