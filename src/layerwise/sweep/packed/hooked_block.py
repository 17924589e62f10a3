"""TransformerLens's own block on packed tokens, for attention that ``packed_block`` does not know.

Slower, and right for whatever the block computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float

from layerwise.sweep.changes.layer_edits import NO_EDITS, Activation, LayerEdits, OfLayout

from .layout import KeysValues, Layout, StepLayout


class WholeBlock:
    """A block that is run as a whole, on rectangles without padding."""

    exact = True
    in_parts = False

    def packed_several(
        self, parts: Sequence[tuple[OfLayout, Layout]], outside: KeysValues | None
    ) -> list[OfLayout]:
        """As of ``PackedBlock``; one layout after the other."""
        return [self.run_packed(resid, layout, outside)[0] for resid, layout in parts]  # type: ignore[attr-defined]

    def from_sites(
        self, resid_pre: Activation, sites: Mapping[str, torch.Tensor], edits: LayerEdits
    ) -> Activation:
        """As of ``PackedBlock``; a block that is one whole cannot."""
        raise NotImplementedError("The block runs as a whole.")


class TransformerLensBlock(WholeBlock):
    """TransformerLens's own block, called on rectangles without any padding."""

    # Invariant: every call sees whole, gapless sequences (cached keys, then new tokens), so that
    # windows, biases and soft-caps mean what they mean in the model; keys are kept unrotated.

    def __init__(self, block: Any, cfg: Any) -> None:
        self.block, self.cfg = block, cfg
        self.n_kv = cfg.n_key_value_heads or cfg.n_heads

    def run_packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        overwrite: bool = False,
    ) -> tuple[Float[torch.Tensor, "group output d_model"], KeysValues | None]:
        """As of ``PackedBlock``."""
        resid = edits.apply_to("resid_pre", resid)
        group, n_tokens, _ = resid.shape
        own = self._empty(group, n_tokens, resid)
        through = torch.empty_like(resid)
        seen: dict[str, torch.Tensor] = {}
        all_keys, all_values = layout.full(own, outside)  # of all tokens, filled ancestors first
        for rows in layout.rows:
            n_query, n_key = rows.queries.shape[1], rows.keys.shape[1]
            past = rows.keys[:, : n_key - n_query]
            out, keys, values, sites = self._call(
                resid[:, rows.queries].flatten(0, 1),
                all_keys[:, past].flatten(0, 1),
                all_values[:, past].flatten(0, 1),
                lambda site, x, rows=rows: self._edit(edits, site, x, rows.queries, group),
            )
            through[:, rows.queries] = out.unflatten(0, (group, -1))
            for site, activation in sites.items():
                whole = seen.setdefault(
                    site, activation.new_empty(group, n_tokens, *activation.shape[2:])
                )
                whole[:, rows.queries] = activation.unflatten(0, (group, -1))
            new_keys, new_values = (x.unflatten(0, (group, -1)) for x in (keys, values))
            own.keys[:, rows.queries], own.values[:, rows.queries] = new_keys, new_values
            if layout.carried is not None:
                packed = layout.carried[rows.queries]
                all_keys[:, packed], all_values[:, packed] = new_keys, new_values
        if edits.observe is not None:
            for site, activation in seen.items():
                edits.observe(site, activation)
        return edits.output("resid_post", lambda: through, resid), own

    def step(
        self,
        resid: Float[torch.Tensor, "row new d_model"],
        layout: StepLayout,
        edits: LayerEdits = NO_EDITS,
    ) -> tuple[Float[torch.Tensor, "row new d_model"], KeysValues | None]:
        """As of ``PackedBlock``; rows of one length go together, so that no row is padded."""
        resid = edits.apply_to("resid_pre", resid)
        through = torch.empty_like(resid)
        kept = self._empty(len(resid), 1, resid)
        positions = layout.index[:, 0]
        for length in positions.unique().tolist():
            rows = (positions == length).nonzero()[:, 0]
            slots = layout.slots[rows]
            out, keys, values, _ = self._call(
                resid[rows],
                layout.own.keys[slots, :, :length].transpose(1, 2),
                layout.own.values[slots, :, :length].transpose(1, 2),
                edits.select_rows(rows).apply_to,
            )
            through[rows], kept.keys[rows], kept.values[rows] = out, keys, values
        layout.own.keys[layout.slots, :, positions] = kept.keys[:, 0]
        layout.own.values[layout.slots, :, positions] = kept.values[:, 0]
        return edits.output("resid_post", lambda: through, resid), kept

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
                    replace(
                        r,
                        value=_select_tokens(r.value, tokens, group),
                        mask=None if r.mask is None else r.mask[:, tokens].flatten(0, 1),
                    )
                    for r in edits.sites.get(site, ())
                )
            }
        )
        return cut.apply_to(site, x)

    def _call(
        self,
        resid: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        edit: Callable[[str, torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """One call of TransformerLens's block, with the sites inside it edited and recorded."""
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

        sites: dict[str, torch.Tensor] = {}
        points = {"z": self.block.attn.hook_z, "attn_out": self.block.hook_attn_out}
        if not self.cfg.attn_only:
            points["mlp_out"] = self.block.hook_mlp_out
            if not self.cfg.parallel_attn_mlp:
                points["resid_mid"] = self.block.hook_resid_mid
        entry = TransformerLensKeyValueCacheEntry(past_keys, past_values)
        handles = [
            point.register_forward_hook(partial(_edit_and_record, site, edit, sites))
            for site, point in points.items()
        ]
        try:
            out = self.block(resid, past_kv_cache_entry=entry)
        finally:
            for handle in handles:
                handle.remove()
        n_past = past_keys.shape[1]
        return out, entry.past_keys[:, n_past:], entry.past_values[:, n_past:], sites


def _edit_and_record(
    site: str,
    edit: Callable[[str, torch.Tensor], torch.Tensor],
    sites: dict[str, torch.Tensor],
    module: object,
    inputs: object,
    output: torch.Tensor,
) -> torch.Tensor:
    """The hook of a site: its output with the edits, which is recorded."""
    sites[site] = edit(site, output)
    return sites[site]


def _select_tokens(value: torch.Tensor, tokens: torch.Tensor, group: int) -> torch.Tensor:
    """A replacement's value for some tokens only; one vector serves all tokens."""
    if value.ndim < 3:
        return value
    taken = value[:, tokens]
    return taken.expand(group, *taken.shape[1:]).flatten(0, 1)
