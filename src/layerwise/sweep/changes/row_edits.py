"""The edits of some rows of a batch to one layer, made replacements that a block can apply.

Rows whose edits give the same values share them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Bool

from .edits import BY_HEAD, Edit, SiteEdit, SkipLayer, SwapWeights, heads_of
from .layer_edits import NO_EDITS, LayerEdits, Replacement


def edits_of(
    changes: Sequence[Sequence[Edit]],
    n_heads: int,
    value_of: Callable[[SiteEdit], tuple[torch.Tensor, Bool[torch.Tensor, " token"] | None]],
    n_tokens: int,
    device: torch.device,
) -> LayerEdits:
    """The changes of some rows to one layer, ready to be applied."""
    replacements: dict[str, list[Replacement]] = {}
    values: dict[Hashable, tuple[torch.Tensor, torch.Tensor | None]] = {}
    for i, edits in enumerate(changes):
        for edit in edits:
            if isinstance(edit, (SkipLayer, SwapWeights)):  # puts nothing at any site
                continue
            key = edit.value_key
            if key not in values:
                values[key] = value_of(edit)
            value, where = values[key]
            heads = heads_of(edit, n_heads)
            if len(changes) > 1 or where is not None or heads is not None:
                mask = torch.zeros(len(changes), n_tokens, dtype=torch.bool, device=device)
                mask[i] = True if where is None else where
                where = mask
                if edit.site in BY_HEAD:
                    where = mask[..., None] & head_mask(heads, n_heads, device)
            replacements.setdefault(edit.site, []).append(Replacement(value, where, edit.adds))
    if not replacements:
        return NO_EDITS
    return LayerEdits({site: _joined(parts) for site, parts in replacements.items()})


def head_mask(
    heads: Sequence[int] | None, n_heads: int, device: torch.device
) -> Bool[torch.Tensor, " head"]:
    """Mask of the chosen heads; None means all."""
    every = torch.arange(n_heads, device=device)
    return torch.isin(every, every if heads is None else torch.tensor(heads).to(every))


def _joined(parts: Sequence[Replacement]) -> tuple[Replacement, ...]:
    """Join successive replacements by the same value."""
    joined: list[Replacement] = []
    for part in parts:
        last = joined[-1] if joined else None
        if (
            last is None
            or part.adds
            or last.value is not part.value
            or last.mask is None
            or part.mask is None
        ):
            joined.append(part)
        else:
            joined[-1] = Replacement(last.value, last.mask | part.mask)
    return tuple(joined)
