"""TransformerLens's own model and its modules, where the installed release has them.

Releases from 4.0 on have none of them; then these names stand for classes of which nothing is an
instance. What the classes are used for is told where they are used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .quiet import no_note_of_kernels


def has_hooked_transformer() -> bool:
    """True if the installed TransformerLens has ``HookedTransformer``; imports nothing of it."""
    package = find_spec("transformer_lens")
    folders = [] if package is None else package.submodule_search_locations or []
    return any((Path(folder) / "HookedTransformer.py").is_file() for folder in folders)


with no_note_of_kernels():
    from transformer_lens import HookedRootModule as HookedRootModule
    from transformer_lens.hook_points import HookPoint as HookPoint

if TYPE_CHECKING or has_hooked_transformer():
    from transformer_lens import HookedTransformer as HookedTransformer
    from transformer_lens import HookedTransformerConfig as HookedTransformerConfig
    from transformer_lens.components.abstract_attention import (
        AbstractAttention as AbstractAttention,
    )
    from transformer_lens.components.attention import Attention as Attention
    from transformer_lens.components.embed import Embed as Embed
    from transformer_lens.components.grouped_query_attention import (
        GroupedQueryAttention as GroupedQueryAttention,
    )
    from transformer_lens.components.layer_norm import LayerNorm as LayerNorm
    from transformer_lens.components.layer_norm_pre import LayerNormPre as LayerNormPre
    from transformer_lens.components.mlps.gated_mlp import GatedMLP as GatedMLP
    from transformer_lens.components.mlps.mlp import MLP as MLP
    from transformer_lens.components.pos_embed import PosEmbed as PosEmbed
    from transformer_lens.components.rms_norm import RMSNorm as RMSNorm
    from transformer_lens.components.rms_norm_pre import RMSNormPre as RMSNormPre
    from transformer_lens.components.transformer_block import TransformerBlock as TransformerBlock
    from transformer_lens.components.unembed import Unembed as Unembed
else:

    def _absent(name: str) -> Any:
        """A class that nothing is an instance of."""

        def refuse(self: Any, *args: Any, **named: Any) -> None:
            raise TypeError(f"the installed TransformerLens has no {name}")

        return type(name, (nn.Module,), {"__init__": refuse, "__module__": __name__})

    for _name in (
        "HookedTransformer", "HookedTransformerConfig", "AbstractAttention", "Attention", "Embed",
        "GroupedQueryAttention", "LayerNorm", "LayerNormPre", "GatedMLP", "MLP", "PosEmbed",
        "RMSNorm", "RMSNormPre", "TransformerBlock", "Unembed",
    ):  # fmt: skip
        globals()[_name] = _absent(_name)
