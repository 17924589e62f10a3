"""A block's own modules applied to packed tokens, attending by ``scaled_dot_product_attention``.

Which models it may be used for is decided in ``blocks``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from ._edits import NO_EDITS, Activation, LayerEdits
from ._runner import Cache, Observe
from .layout import KeysValues, Layout


class PackedBlock:
    """A block's modules applied to packed tokens.

    Invariant: for each token the result is that of TransformerLens's block on the token's own
    sequence, up to rounding; keys are kept rotated.
    """

    exact = False

    def __init__(self, block: Any, cfg: Any) -> None:
        self.block, self.attn, self.cfg = block, block.attn, cfg
        grouped = cfg.n_key_value_heads is not None
        self.n_kv = cfg.n_key_value_heads if grouped else cfg.n_heads
        self.group = cfg.n_heads // self.n_kv
        self.weights = [
            (self._flat(weight), bias.reshape(-1))
            for weight, bias in (
                (self.attn.W_Q, self.attn.b_Q),
                (self.attn._W_K, self.attn._b_K) if grouped else (self.attn.W_K, self.attn.b_K),
                (self.attn._W_V, self.attn._b_V) if grouped else (self.attn.W_V, self.attn.b_V),
            )
        ]
        self.w_out = self.attn.W_O.permute(2, 0, 1).reshape(cfg.d_model, -1)

    @staticmethod
    def _flat(weight: torch.Tensor) -> torch.Tensor:
        """[head, d_model, d_head] -> [head * d_head, d_model]; a view once re-strided."""
        return weight.permute(0, 2, 1).reshape(-1, weight.shape[1])

    def packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        observe: Observe | None = None,
    ) -> tuple[Activation, KeysValues | None]:
        """See ``BlockRunner``."""
        resid = edits.changed("resid_pre", resid)
        kept: list[KeysValues] = []

        def attention() -> Activation:
            queries, own = self._project(resid, layout.positions)
            kept.append(own)
            keys, values = layout.full(own, outside)
            return self._attend(queries, keys, values, layout)

        out = self._block(resid, attention, edits, observe)
        return out, kept[0] if kept else None

    def step(
        self,
        resid: Float[torch.Tensor, "row d_model"],
        positions: Int[torch.Tensor, " row"],
        cache: Cache,
        edits: LayerEdits = NO_EDITS,
    ) -> Float[torch.Tensor, "row d_model"]:
        """See ``BlockRunner``."""
        resid = edits.changed("resid_pre", resid[None])[0]

        def attention() -> Activation:
            queries, own = self._project(resid[None], positions)
            rows = torch.arange(len(resid), device=resid.device)
            cache.keys[rows, positions] = own.keys[0]
            cache.values[rows, positions] = own.values[0]
            seen = int(positions.max()) + 1
            later = torch.arange(seen, device=resid.device) > positions[:, None]
            bias = resid.new_zeros(later.shape).masked_fill_(later, float("-inf"))
            bias = bias[:, None].expand(-1, self.group, -1)
            z = self._sdpa(queries[0][:, None], cache.keys[:, :seen], cache.values[:, :seen], bias)
            return self._output(z.reshape(1, len(resid), -1))

        return self._block(resid[None], attention, edits, None)[0]

    def _block(
        self,
        resid_pre: Activation,
        attention: Callable[[], Activation],
        edits: LayerEdits,
        observe: Observe | None,
    ) -> Activation:
        """Norms, sublayers and residual sums, with the edits in their places."""

        def observed(site: str, activation: Activation) -> Activation:
            if observe is not None:
                observe(site, activation)
            return activation

        def through() -> Activation:
            attn_out = observed("attn_out", edits.output("attn_out", attention, resid_pre))
            resid_mid = resid_pre + attn_out
            if self.cfg.attn_only:
                return resid_mid
            source = resid_pre if self.cfg.parallel_attn_mlp else resid_mid
            mlp_out = edits.output(
                "mlp_out", lambda: self.block.mlp(self.block.ln2(source)), resid_pre
            )
            return resid_mid + observed("mlp_out", mlp_out)

        return edits.leaving(resid_pre, through)

    def _project(
        self, resid: Activation, positions: Int[torch.Tensor, " token"]
    ) -> tuple[Float[torch.Tensor, "group token head d_head"], KeysValues]:
        """Queries, and own keys and values, rotated to their positions."""
        normed = self.block.ln1(resid)
        q, k, v = (
            F.linear(normed, weight, bias).unflatten(-1, (-1, self.cfg.d_head))
            for weight, bias in self.weights
        )
        if self.cfg.use_qk_norm:
            q = self.attn._apply_qk_norm(q, self.attn.q_norm)
            k = self.attn._apply_qk_norm(k, self.attn.k_norm)
        if self.cfg.positional_embedding_type == "rotary":
            q, k = self._rotate(q, positions), self._rotate(k, positions)
        return q, KeysValues(k, v)

    def _rotate(
        self,
        x: Float[torch.Tensor, "group token head d_head"],
        positions: Int[torch.Tensor, " token"],
    ) -> Float[torch.Tensor, "group token head d_head"]:
        """Rotary embedding at explicit positions (Su et al. 2021, arXiv:2104.09864)."""
        longest = int(positions.max()) + 1
        if longest > len(self.attn.rotary_cos):
            self.attn._extend_rotary_embeddings(min(self.cfg.n_ctx, 2 * longest))
        cos = self.attn.rotary_cos[positions, None]
        sin = self.attn.rotary_sin[positions, None]
        dim = self.cfg.rotary_dim
        turned = x[..., :dim]
        turned = turned * cos + self.attn.rotate_every_two(turned) * sin
        return turned if dim == x.shape[-1] else torch.cat([turned, x[..., dim:]], dim=-1)

    def _attend(
        self,
        queries: Float[torch.Tensor, "group token head d_head"],
        keys: Float[torch.Tensor, "group packed kv_head d_head"],
        values: Float[torch.Tensor, "group packed kv_head d_head"],
        layout: Layout,
    ) -> Activation:
        """Attention, rectangle by rectangle, and the output projection."""
        z, branches = torch.empty_like(queries), len(queries)
        for rows, bias in zip(layout.rows, layout.biases, strict=True):
            out = self._sdpa(
                queries[:, rows.queries].flatten(0, 1),
                keys[:, rows.keys].flatten(0, 1),
                values[:, rows.keys].flatten(0, 1),
                bias if branches == 1 else bias.repeat(branches, 1, 1),
            ).unflatten(0, (branches, -1))
            z[:, rows.queries[rows.valid]] = out[:, rows.valid]
        return self._output(z.flatten(2))

    def _sdpa(
        self,
        queries: Float[torch.Tensor, "row n_query head d_head"],
        keys: Float[torch.Tensor, "row n_key kv_head d_head"],
        values: Float[torch.Tensor, "row n_key kv_head d_head"],
        bias: Float[torch.Tensor, "row grouped_query n_key"],
    ) -> Float[torch.Tensor, "row n_query head d_head"]:
        """Grouped-query attention without repeating keys: a group's heads are more queries."""
        n_query = queries.shape[1]
        split = (keys.shape[2], self.group)
        folded = queries.unflatten(2, split).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out = F.scaled_dot_product_attention(
            folded,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=bias[:, None],
            scale=1.0 / float(self.attn.attn_scale),
        )
        return out.unflatten(2, (self.group, n_query)).permute(0, 3, 1, 2, 4).flatten(2, 3)

    def _output(self, z: Float[torch.Tensor, "group token head_d_head"]) -> Activation:
        return F.linear(z, self.w_out, self.attn.b_O)
