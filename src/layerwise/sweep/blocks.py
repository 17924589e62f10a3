"""Two ways to push packed tokens through one transformer block, behind one set of methods.

``PackedBlock`` reads the block's modules and attends with ``scaled_dot_product_attention``;
``HookedBlock`` calls TransformerLens's own block, for models whose attention is something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

from ._edits import NO_EDITS, Activation, LayerEdits
from .layout import KeysValues, Layout
from .trie import AttentionRows

Observe = Callable[[str, Activation], None]
Cache = KeysValues  # [row, position, kv_head, d_head], preallocated


@runtime_checkable
class BlockRunner(Protocol):
    """One block of a model, for packed tokens and for one decoding step."""

    exact: bool

    def packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        observe: Observe | None = None,
    ) -> tuple[Activation, KeysValues | None]:
        """Push packed tokens through; keys and values are None if nobody computed them."""
        ...

    def step(
        self,
        resid: Float[torch.Tensor, "row d_model"],
        positions: Int[torch.Tensor, " row"],
        cache: Cache,
        edits: LayerEdits = NO_EDITS,
    ) -> Float[torch.Tensor, "row d_model"]:
        """Push one new token per row through, and write its keys and values to the cache."""
        ...


def why_not_packed(model: HookedTransformer) -> str | None:
    """What of a model ``PackedBlock`` does not know; None if it knows all."""
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


def attention_in_use(model: HookedTransformer) -> str:
    """Which attention the engine uses for a model, in words."""
    reason = why_not_packed(model)
    if reason is None:
        return "scaled_dot_product_attention on packed tokens"
    return f"TransformerLens's own block ({reason})"


def block_runners(model: HookedTransformer) -> list[BlockRunner]:
    """The runner of each block; one kind for the whole model."""
    kind = PackedBlock if why_not_packed(model) is None else HookedBlock
    return [kind(block, model.cfg) for block in model.blocks]


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
            return self._attend(queries, keys, values, layout.rows)

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
            mask = torch.arange(seen, device=resid.device) <= positions[:, None]
            z = self._sdpa(
                queries[0][:, None], cache.keys[:, :seen], cache.values[:, :seen], mask[:, None]
            )
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
        rectangles: tuple[AttentionRows, ...],
    ) -> Activation:
        """Attention, rectangle by rectangle, and the output projection."""
        z = torch.empty_like(queries)
        for rows in rectangles:
            out = self._sdpa(
                queries[:, rows.queries].flatten(0, 1),
                keys[:, rows.keys].flatten(0, 1),
                values[:, rows.keys].flatten(0, 1),
                rows.mask.repeat(len(queries), 1, 1),
            ).unflatten(0, (len(queries), -1))
            z[:, rows.queries[rows.valid]] = out[:, rows.valid]
        return self._output(z.flatten(2))

    def _sdpa(
        self,
        queries: Float[torch.Tensor, "row n_query head d_head"],
        keys: Float[torch.Tensor, "row n_key kv_head d_head"],
        values: Float[torch.Tensor, "row n_key kv_head d_head"],
        mask: torch.Tensor,
    ) -> Float[torch.Tensor, "row n_query head d_head"]:
        """Grouped-query attention without repeating keys: a group's heads are more queries."""
        n_query, n_head = queries.shape[1:3]
        group = n_head // self.n_kv
        folded = queries.unflatten(2, (self.n_kv, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out = F.scaled_dot_product_attention(
            folded,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask.repeat(1, group, 1)[:, None],
            scale=1.0 / float(self.attn.attn_scale),
        )
        return out.unflatten(2, (group, n_query)).permute(0, 3, 1, 2, 4).flatten(2, 3)

    def _output(self, z: Float[torch.Tensor, "group token head_d_head"]) -> Activation:
        return F.linear(z, self.w_out, self.attn.b_O)


class HookedBlock:
    """TransformerLens's own block, called on rectangles without any padding.

    Invariant: every call sees whole, gapless sequences (cached keys, then new tokens), so that
    windows, biases and soft-caps mean what they mean in the model; keys are kept unrotated.
    """

    exact = True

    def __init__(self, block: Any, cfg: Any) -> None:
        self.block, self.cfg = block, cfg
        self.n_kv = cfg.n_key_value_heads or cfg.n_heads

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
        if edits.skip is True:
            return edits.changed("resid_post", resid), None
        group, n_tokens, _ = resid.shape
        own = self._empty(group, n_tokens, resid)
        through = torch.empty_like(resid)
        seen = {site: torch.empty_like(resid) for site in ("attn_out", "mlp_out")}
        merged = _Merged(layout, own, outside)
        for rows in layout.rows:
            n_query, n_key = rows.queries.shape[1], rows.keys.shape[1]
            past_keys, past_values = merged.at(rows.keys[:, : n_key - n_query])
            out, keys, values, sites = self._call(
                resid[:, rows.queries].flatten(0, 1),
                past_keys.flatten(0, 1),
                past_values.flatten(0, 1),
                lambda site, x, rows=rows: self._edit(edits, site, x, rows.queries, group),
            )
            through[:, rows.queries] = out.unflatten(0, (group, -1))
            for site, activation in sites.items():
                seen[site][:, rows.queries] = activation.unflatten(0, (group, -1))
            merged.put(
                rows.queries, keys.unflatten(0, (group, -1)), values.unflatten(0, (group, -1))
            )
        if observe is not None:
            for site, activation in seen.items():
                observe(site, activation)
        return edits.leaving(resid, lambda: through), own

    def step(
        self,
        resid: Float[torch.Tensor, "row d_model"],
        positions: Int[torch.Tensor, " row"],
        cache: Cache,
        edits: LayerEdits = NO_EDITS,
    ) -> Float[torch.Tensor, "row d_model"]:
        """See ``BlockRunner``; rows of one length go together, so that no row is padded."""
        resid = edits.changed("resid_pre", resid[None])[0]
        through = torch.empty_like(resid)
        for length in positions.unique().tolist():
            rows = (positions == length).nonzero()[:, 0]
            out, keys, values, _ = self._call(
                resid[rows, None],
                cache.keys[rows, :length],
                cache.values[rows, :length],
                lambda site, x, rows=rows: self._edit(edits, site, x, rows[:, None], 1),
            )
            through[rows] = out[:, 0]
            cache.keys[rows, length], cache.values[rows, length] = keys[:, 0], values[:, 0]
        return edits.leaving(resid[None], lambda: through[None])[0]

    def _empty(self, group: int, n_tokens: int, like: torch.Tensor) -> KeysValues:
        shape = (group, n_tokens, self.n_kv, self.cfg.d_head)
        return KeysValues(like.new_empty(shape), like.new_empty(shape))

    @staticmethod
    def _edit(
        edits: LayerEdits, site: str, x: torch.Tensor, tokens: torch.Tensor, group: int
    ) -> torch.Tensor:
        """Apply the edits to a rectangle cut out of the packed tokens."""
        cut = LayerEdits(
            {
                site: tuple(
                    type(r)(
                        _cut(r.value, tokens),
                        None if r.mask is None else r.mask[:, tokens].flatten(0, 1),
                    )
                    for r in edits.sites.get(site, ())
                )
            }
        )
        return cut.changed(site, x)

    def _call(
        self,
        resid: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        edit: Callable[[str, torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """One call of TransformerLens's block, with its two output sites edited and recorded."""
        from transformer_lens.cache.key_value_cache_entry import (
            TransformerLensKeyValueCacheEntry,
        )

        sites: dict[str, torch.Tensor] = {}

        def edited(site: str) -> Callable[..., torch.Tensor]:
            def hook(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
                sites[site] = edit(site, output)
                return sites[site]

            return hook

        points = {"attn_out": self.block.hook_attn_out}
        if not self.cfg.attn_only:
            points["mlp_out"] = self.block.hook_mlp_out
        entry = TransformerLensKeyValueCacheEntry(past_keys, past_values)
        handles = [point.register_forward_hook(edited(site)) for site, point in points.items()]
        try:
            out = self.block(resid, past_kv_cache_entry=entry)
        finally:
            for handle in handles:
                handle.remove()
        n_past = past_keys.shape[1]
        return out, entry.past_keys[:, n_past:], entry.past_values[:, n_past:], sites


def _cut(value: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A replacement's value for some tokens only; one vector serves all tokens."""
    return value[:, tokens].flatten(0, 1) if value.ndim == 3 else value


class _Merged:
    """Keys and values of all packed tokens while a layer is being filled, ancestors first."""

    def __init__(self, layout: Layout, own: KeysValues, outside: KeysValues | None) -> None:
        self.layout, self.own = layout, own
        self.keys, self.values = own.keys, own.values
        if layout.carried is not None:
            self.keys, self.values = layout.full(own, outside)

    def at(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys[:, index], self.values[:, index]

    def put(self, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.own.keys[:, tokens], self.own.values[:, tokens] = keys, values
        if self.layout.carried is not None:
            packed = self.layout.carried[tokens]
            self.keys[:, packed], self.values[:, packed] = keys, values
