"""A Hugging Face decoder layer's own modules on packed tokens.

As ``packed_block``, whose order of edits it shares; what makes queries, keys and values is the
layer's attention module, whatever it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int

from layerwise.models.decoder.norms import FormulaOf, formula_of
from layerwise.models.instance.kinds import heads_per_key
from layerwise.sweep.changes.layer_edits import Activation, HeadActivation, OfLayout

from .layout import KeysValues, Layout
from .packed_attention import Attended, PackedAttention
from .packed_block import PackedBlock
from .runner import StepLayout
from .step_attention import Scoring


class ModuleBlock(PackedBlock):
    """The modules of a ``DecoderModel``'s layer applied to packed tokens."""

    # Invariant: for each token the result is that of the layer on the token's own sequence, up to
    # rounding; keys are kept as attention reads them, rotated and normed.

    def __init__(self, block: Any, cfg: Any, formula: FormulaOf = formula_of) -> None:
        self.block, self.cfg, self.parts = block, cfg, block.parts
        self.n_kv, self.group = cfg.n_key_value_heads, heads_per_key(cfg)
        attn = self.parts.attn
        self.scoring = Scoring(attn.scale, attn.cap, attn.window, attn.sinks)
        self.attend = PackedAttention(self.n_kv, self.group, cfg.d_head, self.scoring)
        self.norm_1 = _quick(self.parts.attn_norm, cfg.d_model, formula)
        self.norm_2 = _quick(self.parts.mlp_norm, cfg.d_model, formula)
        # No method of the block's own: a circle would keep its weights in memory.
        self.mlp = self.parts.mlp_added

    def packed_several(
        self, parts: Sequence[tuple[OfLayout, Layout]], outside: KeysValues | None
    ) -> list[OfLayout]:
        """See ``BlockRunner``; one layout after the other."""
        return [self.packed(resid, layout, outside)[0] for resid, layout in parts]

    def _packed_heads(
        self, resid: OfLayout, layout: Layout, outside: KeysValues | None, kept: list[KeysValues]
    ) -> Attended:
        """What each head reads, at the tokens that leave the block; keeps own keys and values."""
        made = self.parts.attn.queried(self.norm_1(resid), layout.positions, layout.longest)
        kept.append(KeysValues(made.keys, made.values))
        return self.attend(layout.leaving(made.queries), kept[-1], outside, layout)

    def _step_queried(
        self, normed: Activation, layout: StepLayout
    ) -> tuple[HeadActivation, KeysValues]:
        """Queries of the new tokens, and their own keys and values."""
        made = self.parts.attn.queried(normed, layout.positions, layout.longest)
        return made.queries, KeysValues(made.keys, made.values)

    def _keys_values(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> KeysValues:
        """Own keys and values."""
        made = self.parts.attn.queried(normed, positions, longest)
        return KeysValues(made.keys, made.values)

    def _plain(self, resid: Activation, z: Float[torch.Tensor, ...]) -> Activation:
        """The block without changes, written in the place of what enters it."""
        assert self.mlp is not None
        if self.parts.parallel:
            mlp_out = self.mlp(self.norm_2(resid))
            return resid.add_(self._output(z)).add_(mlp_out)
        resid.add_(self._output(z))
        return resid.add_(self.mlp(self.norm_2(resid)))

    def _output(
        self, z: Float[torch.Tensor, "... head_d_head"]
    ) -> Float[torch.Tensor, "... d_model"]:
        """What attention adds to the stream."""
        return self.parts.attn_added(z)


def _quick(norm: Any, width: int, formula: FormulaOf) -> Any:
    """A norm as one operation where its formula is known, else its module."""
    if norm is None:
        return lambda x: x
    # In a narrower format the module may round its weights later than the formula does.
    narrow = any(w.dtype not in (torch.float32, torch.float64) for w in norm.parameters())
    return norm if narrow else formula(norm, width) or norm
