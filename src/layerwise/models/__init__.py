"""Models: a name becomes a hooked model that is known to equal its original.

Everything that needs torch is imported on first use, so that listing models stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from .instance.loaded import LoadedFacts as LoadedFacts
from .instance.loaded import SourceKind as SourceKind
from .names.registry import DEFAULT_MODEL as DEFAULT_MODEL
from .names.registry import KnownModel as KnownModel
from .names.registry import known_models as known_models

if TYPE_CHECKING:
    from . import organisms as organisms
    from .conversion.bridge import from_bridge as from_bridge
    from .instance.facts import model_facts as model_facts
    from .instance.facts import original_tokenizer as original_tokenizer
    from .instance.facts import weights_hash as weights_hash
    from .load import load_model as load_model
    from .weights.strides import restride as restride

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["organisms"],
    submod_attrs={
        "conversion.bridge": ["from_bridge"],
        "instance.facts": ["model_facts", "original_tokenizer", "weights_hash"],
        "load": ["load_model"],
        "weights.strides": ["restride"],
    },
)
