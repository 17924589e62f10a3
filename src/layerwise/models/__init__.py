"""Models: a name becomes a hooked model that is known to equal its original.

Everything that needs torch is imported on first use, so that listing models stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .instance.loaded import LoadedFacts as LoadedFacts
from .instance.loaded import SourceKind as SourceKind
from .names.registry import DEFAULT_MODEL as DEFAULT_MODEL
from .names.registry import KnownModel as KnownModel
from .names.registry import known_models as known_models

if TYPE_CHECKING:
    from .conversion.bridge import from_bridge as from_bridge
    from .conversion.in_memory import from_transformers as from_transformers
    from .instance.facts import model_facts as model_facts
    from .instance.facts import original_tokenizer as original_tokenizer
    from .instance.facts import weights_hash as weights_hash
    from .load import load_model as load_model
    from .weights.strides import restride as restride

_LAZY = {
    "from_bridge": "layerwise.models.conversion.bridge",
    "from_transformers": "layerwise.models.conversion.in_memory",
    "load_model": "layerwise.models.load",
    "model_facts": "layerwise.models.instance.facts",
    "original_tokenizer": "layerwise.models.instance.facts",
    "restride": "layerwise.models.weights.strides",
    "weights_hash": "layerwise.models.instance.facts",
}

__all__ = [
    "DEFAULT_MODEL",
    "KnownModel",
    "LoadedFacts",
    "SourceKind",
    "from_bridge",
    "from_transformers",
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
