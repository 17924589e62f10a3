"""TransformerLens's own block on packed tokens, for attention that ``packed_block`` does not know.

Slower, and right for whatever the block computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int

from ._edits import NO_EDITS, Activation, LayerEdits
from ._runner import Cache, Observe
from .layout import KeysValues, Layout


class HookedBlock:
    """TransformerLens's own block, called on rectangles without any padding.

    Invariant: every call sees whole, gapless sequences (cached keys, then new tokens), so that
    windows, biases and soft-caps mean what they mean in the model; keys are kept unrotated.
    """

    exact = True
    group = 1

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
