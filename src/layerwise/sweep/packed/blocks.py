"""Choice of the way to run a model's blocks, made once per model.

``PackedBlock`` reads the block's modules and attends with ``scaled_dot_product_attention``;
``TransformerLensBlock`` calls TransformerLens's own block, for models with other attention;
``ModuleBlock`` calls the modules of the Hugging Face original, where that is what is run;
``StackBlock`` those of an encoder-decoder's.
Where the weights are on disk, a runner reads those of its block when it is first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int

from layerwise.errors import UserError
from layerwise.models.decoder.norms import FormulaOf, cached_formulas, norm_formula
from layerwise.models.instance.kinds import (
    DecoderOnly,
    Model,
    heads_per_key,
    runs_original_modules,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.weights.offload import BlocksOnDisk, blocks_on_disk
from layerwise.sweep.changes.edits import OtherWeights
from layerwise.sweep.changes.layer_edits import Activation, HeadActivation, OfLayout

from .attention import Attended, PackedAttention, ScoreModifiers
from .hooked_block import TransformerLensBlock
from .layout import KeysValues, Layout
from .packed_block import PackedBlock
from .stack_block import StackBlock


class ModuleBlock(PackedBlock):
    """The modules of a ``DecoderModel``'s layer applied to packed tokens."""

    # Invariant: for each token the result is that of the layer on the token's own sequence, up to
    # rounding; keys are kept as attention reads them, rotated and normed.

    def __init__(self, block: Any, cfg: Any, formula: FormulaOf = norm_formula) -> None:
        self.block, self.cfg, self.parts = block, cfg, block.parts
        self.n_kv, self.group = cfg.n_key_value_heads, heads_per_key(cfg)
        attn = self.parts.attn
        self.scoring = ScoreModifiers(attn.scale, attn.cap, attn.window, attn.sinks)
        self.attend = PackedAttention(self.n_kv, self.group, cfg.d_head, self.scoring)
        self.norm_1 = _quick(self.parts.attn_norm, cfg.d_model, formula)
        self.norm_2 = _quick(self.parts.mlp_norm, cfg.d_model, formula)
        # No method of the block's own: a circle would keep its weights in memory.
        self.mlp = self.parts.mlp_output

    def packed_several(
        self, parts: Sequence[tuple[OfLayout, Layout]], outside: KeysValues | None
    ) -> list[OfLayout]:
        """As of ``PackedBlock``; one layout after the other."""
        return [self.run_packed(resid, layout, outside)[0] for resid, layout in parts]

    def _packed_heads(
        self, resid: OfLayout, layout: Layout, outside: KeysValues | None, kept: list[KeysValues]
    ) -> Attended:
        """Reading of each head, at the tokens that leave the block; keeps own keys and values."""
        queries, own = self._queries_keys_values(
            self.norm_1(resid), layout.positions, layout.longest
        )
        kept.append(own)
        return self.attend(layout.select_outputs(queries), own, outside, layout)

    def _queries_keys_values(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> tuple[HeadActivation, KeysValues]:
        """Queries, and own keys and values, made at once."""
        made = self.parts.attn.queries_keys_values(normed, positions, longest)
        return made.queries, KeysValues(made.keys, made.values)

    def _keys_values(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> KeysValues:
        """Own keys and values."""
        return self._queries_keys_values(normed, positions, longest)[1]

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
        """Output that attention adds to the stream."""
        return self.parts.attn_output(z)


def _quick(norm: Any, width: int, formula: FormulaOf) -> Any:
    """A norm as one operation where its formula is known, else its module."""
    if norm is None:
        return lambda x: x
    # In a narrower format the module may round its weights later than the formula does.
    narrow = any(w.dtype not in (torch.float32, torch.float64) for w in norm.parameters())
    return norm if narrow else formula(norm, width) or norm


def unpackable_reason(model: DecoderOnly) -> str | None:
    """The reason why a model cannot run on packed tokens; None if it can."""
    if runs_original_modules(model):
        return None
    cfg: Any = model.cfg
    unknown = {
        "bidirectional attention": cfg.attention_dir != "causal",
        "local or sliding-window attention": cfg.use_local_attn,
        "attention soft-cap": (cfg.attn_scores_soft_cap or 0) > 0,
        "attention sinks": getattr(cfg, "use_attention_sinks", False),
        "clipped queries and keys": getattr(cfg, "clip_qkv", None) is not None,
        "log-n scaling": getattr(cfg, "use_logn_attn", False),
        "length-dependent RoPE": getattr(cfg, "use_dynamic_ntk_rope", False),
        "position embedding " + str(cfg.positional_embedding_type): (
            cfg.positional_embedding_type not in ("standard", "rotary")
        ),
        "post-norm blocks": cfg.original_architecture
        in ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"),
        "norms after the sublayers": cfg.use_normalization_before_and_after,
        "split inputs": cfg.use_split_qkv_input or cfg.use_attn_in or cfg.use_hook_mlp_in,
        "per-head results": cfg.use_attn_result,
        "ungrouped key/value heads": cfg.ungroup_grouped_query_attention,
        "4-bit weights": cfg.load_in_4bit,
    }
    return ", ".join(name for name, present in unknown.items() if present) or None


def attention_in_use(model: Model) -> str:
    """Attention that the engine uses for a model, in words."""
    if isinstance(model, Seq2SeqModel):
        return "scaled_dot_product_attention in both stacks"
    if runs_original_modules(model):
        return "scaled_dot_product_attention on packed tokens, within Hugging Face's own layers"
    reason = unpackable_reason(model)
    if reason is None:
        return "scaled_dot_product_attention on packed tokens"
    return f"TransformerLens's own block ({reason})"


def block_runners(model: Model) -> Sequence[BlockRunner]:
    """The runner of each block; one kind for the whole model."""
    if isinstance(model, Seq2SeqModel):
        stacks = model.parts.encoder, model.parts.decoder
        return [StackBlock(block, stack) for stack in stacks for block in stack.blocks]
    kind = _runner_kind(model)
    on_disk = blocks_on_disk(model)
    if on_disk is None:
        return [kind(block, model.cfg) for block in model.blocks]
    # A runner is made each time that its block is read: at each token that is written.
    make = partial(ModuleBlock, formula=cached_formulas()) if kind is ModuleBlock else kind
    return RunnersOnDisk(on_disk, kind, make)


def _runner_kind(model: DecoderOnly) -> type[ModuleBlock | PackedBlock | TransformerLensBlock]:
    if runs_original_modules(model):
        return ModuleBlock
    return PackedBlock if unpackable_reason(model) is None else TransformerLensBlock


def runner_with_weights(model: Model, layer: int, weights: OtherWeights) -> BlockRunner:
    """The runner of a block with other weights, which shares all others with the model's."""
    if isinstance(model, Seq2SeqModel):
        n_encoder = model.cfg.n_encoder_layers
        decodes = layer >= n_encoder
        stack = model.parts.decoder if decodes else model.parts.encoder
        return StackBlock(weights.twin(stack.blocks[layer - n_encoder * decodes]), stack)
    if blocks_on_disk(model) is not None:
        raise UserError(
            "The model's weights are on disk, where others cannot stand in their place: expected "
            "them in memory; load the model without offload."
        )
    kind = _runner_kind(model)
    return kind(weights.twin(model.blocks[layer]), model.cfg)


class RunnersOnDisk(Sequence["BlockRunner"]):
    """Block runners of an off-loaded model, created on each access."""

    def __init__(self, on_disk: BlocksOnDisk, kind: Any, make: Any) -> None:
        self.on_disk, self.kind, self.make = on_disk, kind, make

    def __len__(self) -> int:
        return len(self.on_disk.parts)

    def __getitem__(self, layer: Any) -> Any:
        return RunnerOnDisk(self.on_disk, self.kind, self.make, range(len(self))[layer])


class RunnerOnDisk:
    """A runner that reads the weights of its block when it is first used."""

    # Invariant: from then on they are in memory as long as the runner is there; so keep none longer
    # than it is needed.

    def __init__(self, on_disk: BlocksOnDisk, kind: Any, make: Any, layer: int) -> None:
        self.exact, self.in_parts = kind.exact, kind.in_parts
        self.on_disk, self.make, self.layer = on_disk, make, layer
        self.runner: Any = None

    def __getattr__(self, name: str) -> Any:
        """Attribute of the runner of the block in memory."""
        if name.startswith("_"):
            raise AttributeError(name)
        if self.runner is None:
            block = self.on_disk.hold_while_used(self, self.layer)
            self.runner = self.make(block, self.on_disk.model.cfg)
        return getattr(self.runner, name)


BlockRunner = PackedBlock | TransformerLensBlock | StackBlock | RunnerOnDisk
"""Runners of one block, for packed tokens or for a few new tokens per row."""
