"""A block's own modules applied to packed tokens, attending by ``scaled_dot_product_attention``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from layerwise.models.instance.kinds import heads_per_key
from layerwise.sweep.changes.layer_edits import (
    NO_EDITS,
    Activation,
    HeadActivation,
    LayerEdits,
    OfLayout,
)

from .attention import Attended, PackedAttention, ScoreModifiers, attend_step
from .layout import KeysValues, Layout, StepLayout
from .modules import FusedMLP, add_product, norm_function


class PackedBlock:
    """A block's modules applied to packed tokens."""

    # Invariant: for each token the result is that of TransformerLens's block on the token's own
    # sequence, up to rounding; keys are kept rotated.

    exact = False  # whether rectangles must be without padding
    # Whether it can leave out tokens that need not leave the block, start from sites, decode
    # several new tokens at once and attend to shared beginnings.
    in_parts = True

    def __init__(self, block: Any, cfg: Any) -> None:
        self.block, self.attn, self.cfg = block, block.attn, cfg
        self.norm_1 = norm_function(block.ln1)
        self.mlp = None if cfg.attn_only else FusedMLP(block.mlp)
        self.norm_2 = None if cfg.attn_only else norm_function(block.ln2)
        grouped = cfg.n_key_value_heads is not None
        self.n_kv = cfg.n_key_value_heads if grouped else cfg.n_heads
        self.group = heads_per_key(cfg)
        self.weights = [
            (_flat(weight), bias.reshape(-1))
            for weight, bias in (
                (self.attn.W_Q, self.attn.b_Q),
                (self.attn._W_K, self.attn._b_K) if grouped else (self.attn.W_K, self.attn.b_K),
                (self.attn._W_V, self.attn._b_V) if grouped else (self.attn.W_V, self.attn.b_V),
            )
        ]
        self.w_out = self.attn.W_O.permute(2, 0, 1).reshape(cfg.d_model, -1)
        self.scale = 1.0 / float(self.attn.attn_scale)
        self.scoring = ScoreModifiers(self.scale)
        self.attend = PackedAttention(self.n_kv, self.group, cfg.d_head, self.scoring)

    def run_packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        overwrite: bool = False,
    ) -> tuple[Float[torch.Tensor, "group output d_model"], KeysValues | None]:
        """Push packed tokens through; keys and values are None if nobody computed them."""
        # With ``overwrite`` the result may be written in the place of ``resid``.
        resid = edits.apply_to("resid_pre", resid)
        base = layout.select_outputs(resid)
        kept: list[KeysValues] = []
        heads = partial(self._packed_heads, resid, layout, outside, kept)
        if not layout.n_outputs:
            return base, self._keys_values(self.norm_1(resid), layout.positions, layout.longest)
        if edits is NO_EDITS:
            own_place = overwrite or layout.outputs is not None
            out = self._plain(base if own_place else base.clone(), heads().flatten(2))
        else:
            out = self._run_with_edits(base, heads, edits)
        return out, kept[0] if kept else None

    def packed_several(
        self, parts: Sequence[tuple[OfLayout, Layout]], outside: KeysValues | None
    ) -> list[OfLayout]:
        """Push tokens of several layouts through at once, without changes."""
        shapes = [resid.shape[:2] for resid, _ in parts]
        normed = self.norm_1(_concat_tokens([resid for resid, _ in parts]))
        leaving = [
            layout.select_outputs(x)
            for x, (_, layout) in zip(_split_tokens(normed, shapes), parts, strict=True)
        ]
        leaving_shapes = [x.shape[:2] for x in leaving]
        # The products are made for all parts at once; what depends on positions, for each.
        q, k, v = (
            [x.unflatten(-1, (-1, self.cfg.d_head)) for x in _split_tokens(flat, given)]
            for flat, given in (
                (self._product(0, _concat_tokens(leaving)), leaving_shapes),
                (self._product(1, normed), shapes),
                (self._product(2, normed), shapes),
            )
        )
        heads = []
        for queries, keys, values, (_, layout) in zip(q, k, v, parts, strict=True):
            keys = self._norm_and_rotate(keys, "k", layout.positions, layout.longest)
            queries = self._norm_and_rotate(queries, "q", layout.leaving_positions, layout.longest)
            heads.append(self.attend(queries, KeysValues(keys, values), outside, layout))
        base = _concat_tokens([layout.select_outputs(resid) for resid, layout in parts])
        out = self._plain(base, _concat_tokens(heads).flatten(2))
        return _split_tokens(out, leaving_shapes)

    def _packed_heads(
        self, resid: OfLayout, layout: Layout, outside: KeysValues | None, kept: list[KeysValues]
    ) -> Attended:
        """Reading of each head, at the tokens that leave the block; keeps own keys and values."""
        normed = self.norm_1(resid)
        kept.append(self._keys_values(normed, layout.positions, layout.longest))
        leaving = layout.select_outputs(normed)
        queries = self._queries(leaving, layout.leaving_positions, layout.longest)
        return self.attend(queries, kept[-1], outside, layout)

    def from_sites(
        self, resid_pre: Activation, sites: Mapping[str, torch.Tensor], edits: LayerEdits
    ) -> Activation:
        """Output of the block, given its unchanged sites and changes after its attention."""
        group, attn_out = len(resid_pre), sites["attn_out"]
        if edits.changes("z"):
            at = edits.changed_mask("z")
            z = edits.apply_to("z", sites["z"].expand(group, -1, -1, -1))
            if at is None:
                attn_out = self._output(z.flatten(-2))
            else:
                attn_out = attn_out.expand(group, -1, -1).clone()
                attn_out[at] = self._output(z[at].flatten(-2))
        attn_out = edits.apply_to("attn_out", attn_out.expand_as(resid_pre))
        resid_mid = edits.apply_to("resid_mid", resid_pre + attn_out)
        if self.mlp is None:
            return edits.apply_to("resid_post", resid_mid)
        known = sites["mlp_out"].expand_as(resid_mid)
        mlp_out = partial(self._mlp_at_changed, edits, resid_mid, known)
        return edits.output(
            "resid_post",
            lambda: resid_mid + edits.output("mlp_out", mlp_out, resid_pre),
            resid_pre,
        )

    def step(
        self,
        resid: Float[torch.Tensor, "row new d_model"],
        layout: StepLayout,
        edits: LayerEdits = NO_EDITS,
    ) -> tuple[Float[torch.Tensor, "row new d_model"], KeysValues | None]:
        """Push new tokens through; their keys and values go to the cache and are returned."""
        resid = edits.apply_to("resid_pre", resid)
        kept: list[KeysValues] = []
        heads = partial(self._step_heads, resid, layout, kept)
        if edits is NO_EDITS:
            out = self._plain(resid.clone(), heads().flatten(2))
        else:
            out = self._run_with_edits(resid, heads, edits)
        return out, kept[0] if kept else None

    def _step_heads(
        self,
        resid: Float[torch.Tensor, "row new d_model"],
        layout: StepLayout,
        kept: list[KeysValues],
    ) -> HeadActivation:
        """Reading of each head at the new tokens, whose keys and values go into the cache."""
        queries, own = self._queries_keys_values(
            self.norm_1(resid), layout.positions, layout.longest
        )
        kept.append(own)
        slots = layout.slots[:, None]
        layout.own.keys[slots, :, layout.index] = own.keys
        layout.own.values[slots, :, layout.index] = own.values
        return attend_step(queries, layout, self.group, self.scoring)

    def _queries_keys_values(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> tuple[HeadActivation, KeysValues]:
        """Queries, and own keys and values."""
        own = self._keys_values(normed, positions, longest)
        return self._queries(normed, positions, longest), own

    def _mlp_at_changed(
        self, edits: LayerEdits, resid_mid: Activation, known: Activation
    ) -> Activation:
        """The MLP's output, computed only where its input has changed."""
        assert self.mlp is not None
        assert self.norm_2 is not None
        changed = [site for site in ("z", "attn_out", "resid_mid") if edits.changes(site)]
        if self.cfg.parallel_attn_mlp or not changed:
            return known
        masks = [edits.changed_mask(site) for site in changed]
        where = torch.zeros_like(resid_mid[..., 0], dtype=torch.bool)
        for mask in masks:
            where |= mask if mask is not None else True
        out = known.clone()
        out[where] = self.mlp(self.norm_2(resid_mid[where][None]))[0]
        return out

    def _plain(self, resid: Activation, z: Float[torch.Tensor, ...]) -> Activation:
        """The block without changes, written in the place of what enters it."""
        bias = self.attn.b_O
        if self.mlp is None:
            return add_product(resid, z, self.w_out.T, bias)
        assert self.norm_2 is not None
        if self.cfg.parallel_attn_mlp:
            normed = self.norm_2(resid)
            add_product(resid, z, self.w_out.T, bias)
            return self.mlp.add_to(resid, normed)
        add_product(resid, z, self.w_out.T, bias)
        return self.mlp.add_to(resid, self.norm_2(resid))

    def _run_with_edits(self, resid_pre: Activation, heads: Any, edits: LayerEdits) -> Activation:
        """Norms, sublayers and residual sums, with the edits in their places."""
        through = partial(self._after_sublayers, resid_pre, heads, edits)
        return edits.output("resid_post", through, resid_pre)

    def _after_sublayers(self, resid_pre: Activation, heads: Any, edits: LayerEdits) -> Activation:
        """The stream after both sublayers."""
        attn_out = edits.output(
            "attn_out", partial(self._attention_output, heads, edits), resid_pre
        )
        total = resid_pre + attn_out
        if self.mlp is None or self.norm_2 is None:
            return total
        resid_mid = edits.apply_to("resid_mid", total)
        source = resid_pre if self.cfg.parallel_attn_mlp else resid_mid
        mlp, norm = self.mlp, self.norm_2
        return resid_mid + edits.output("mlp_out", lambda: mlp(norm(source)), resid_pre)

    def _attention_output(self, heads: Any, edits: LayerEdits) -> Activation:
        return self._output(edits.apply_to("z", heads()).flatten(2))

    def _product(self, which: int, normed: Activation) -> Float[torch.Tensor, "group token out"]:
        """Queries (0), keys (1) or values (2), heads side by side."""
        weight, bias = self.weights[which]
        return F.linear(normed, weight, bias)

    def _norm_and_rotate(
        self, x: HeadActivation, which: str, positions: Int[torch.Tensor, ...], longest: int
    ) -> HeadActivation:
        """Queries or keys, normed where the model does so, and rotated to their positions."""
        if self.cfg.use_qk_norm:
            norm = self.attn.q_norm if which == "q" else self.attn.k_norm
            x = self.attn._apply_qk_norm(x, norm)
        return self._rotate(x, positions, longest)

    def _queries(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> HeadActivation:
        """Queries, rotated to their positions."""
        q = self._product(0, normed).unflatten(-1, (-1, self.cfg.d_head))
        return self._norm_and_rotate(q, "q", positions, longest)

    def _keys_values(
        self, normed: Activation, positions: Int[torch.Tensor, ...], longest: int
    ) -> KeysValues:
        """Own keys, rotated to their positions, and values."""
        k, v = (
            self._product(which, normed).unflatten(-1, (-1, self.cfg.d_head)) for which in (1, 2)
        )
        return KeysValues(self._norm_and_rotate(k, "k", positions, longest), v)

    def _rotate(
        self, x: HeadActivation, positions: Int[torch.Tensor, ...], longest: int
    ) -> HeadActivation:
        """Rotary embedding at explicit positions (Su et al. 2021, arXiv:2104.09864)."""
        if self.cfg.positional_embedding_type != "rotary":
            return x
        if longest > len(self.attn.rotary_cos):
            self.attn._extend_rotary_embeddings(min(self.cfg.n_ctx, 2 * longest))
        cos = self.attn.rotary_cos[positions].unsqueeze(-2)
        sin = self.attn.rotary_sin[positions].unsqueeze(-2)
        dim = self.cfg.rotary_dim
        turned = x[..., :dim] * cos
        if self.cfg.rotary_adjacent_pairs:
            first, second = slice(0, dim, 2), slice(1, dim, 2)
        else:
            first, second = slice(0, dim // 2), slice(dim // 2, dim)
        turned[..., first].addcmul_(x[..., second], sin[..., first], value=-1)
        turned[..., second].addcmul_(x[..., first], sin[..., second])
        return turned if dim == x.shape[-1] else torch.cat([turned, x[..., dim:]], dim=-1)

    def _output(
        self, z: Float[torch.Tensor, "... head_d_head"]
    ) -> Float[torch.Tensor, "... d_model"]:
        return F.linear(z, self.w_out, self.attn.b_O)


def _flat(weight: Float[torch.Tensor, "head d_model d_head"]) -> Float[torch.Tensor, "out d_model"]:
    """Flatten head weights to a matrix; a view once re-strided."""
    return weight.permute(0, 2, 1).reshape(-1, weight.shape[1])


def _concat_tokens(parts: Sequence[torch.Tensor]) -> Float[torch.Tensor, "1 token ..."]:
    """Concatenate activations along tokens."""
    return torch.cat([part.flatten(0, 1) for part in parts])[None]


def _split_tokens(
    together: Float[torch.Tensor, "1 token ..."], shapes: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Split concatenated activations into views."""
    pieces = together[0].split([shape[0] * shape[1] for shape in shapes])
    return [x.unflatten(0, tuple(shape)) for x, shape in zip(pieces, shapes, strict=True)]
