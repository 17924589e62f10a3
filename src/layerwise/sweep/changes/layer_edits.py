"""Changes within one layer for one batch of activations, ready to be applied.

Blocks ask what becomes of an output, and whether it need be computed at all. Edits of rows are made
such replacements here. Knows no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from .edits import BY_HEAD, Edit, SiteEdit, SkipLayer, SwapWeights, changed_heads

Activation = Float[torch.Tensor, "group token d_model"]
OfLayout = Float[torch.Tensor, "_ _ d_model"]  # of one of several layouts
AtSite = Float[torch.Tensor, "group token ..."]
Observe = Callable[[str, torch.Tensor], None]
HeadActivation = Float[torch.Tensor, "group token head d_head"]


@dataclass(frozen=True)
class Replacement:
    """A new value for a site, everywhere or where ``mask`` is true."""

    # Broadcasts to the activation; with three dimensions or more the first is the group's, which
    # may be 1.
    value: Float[torch.Tensor, ...]
    # Where; None is everywhere. For ``z`` with a third dimension: which heads.
    mask: Bool[torch.Tensor, "group token"] | Bool[torch.Tensor, "group token head"] | None = None
    adds: bool = False  # whether the value is added instead

    def cut(self, rows: Int[torch.Tensor, " row"]) -> Replacement:
        """The replacement restricted to some rows of the group."""
        own = self.value.ndim > 2 and len(self.value) > 1
        mask = None if self.mask is None else self.mask[rows]
        return replace(self, value=self.value[rows] if own else self.value, mask=mask)


@dataclass(frozen=True)
class LayerEdits:
    """All changes to one layer, and who is told of the activations at its sites."""

    # Replacements by site name, applied in order.
    sites: dict[str, tuple[Replacement, ...]] = field(default_factory=dict)
    observe: Observe | None = None  # told of the activation of each site, changed or not

    def changes(self, site: str) -> bool:
        """True if a site is changed anywhere."""
        return bool(self.sites.get(site))

    def changed_mask(self, site: str) -> Bool[torch.Tensor, "group token"] | None:
        """Mask of a changed site's positions; None means everywhere."""
        union: torch.Tensor | None = None
        for replacement in self.sites[site]:
            mask = replacement.mask
            if mask is None:
                return None
            mask = mask.any(-1) if mask.ndim == 3 else mask
            union = mask if union is None else union | mask
        return union

    def output(self, site: str, compute: Callable[[], AtSite], like: AtSite) -> AtSite:
        """The edited activation of a site; computed only if not all of it is replaced."""
        replacements = self.sites.get(site, ())
        if replacements and replacements[0].mask is None and not replacements[0].adds:
            first, *rest = replacements
            out = first.value.to(like).expand_as(like)
        else:
            out, rest = compute(), list(replacements)
        for replacement in rest:
            out = self._replace_values(out, replacement)
        if self.observe is not None:
            self.observe(site, out)
        return out

    def apply_to(self, site: str, activation: AtSite) -> AtSite:
        """Apply the changes to a given activation of a site."""
        return self.output(site, lambda: activation, activation)

    def select_rows(self, rows: Int[torch.Tensor, " row"]) -> LayerEdits:
        """The changes to some rows of the group."""
        return LayerEdits(
            {site: tuple(r.cut(rows) for r in changes) for site, changes in self.sites.items()}
        )

    @staticmethod
    def _replace_values(activation: AtSite, replacement: Replacement) -> AtSite:
        value = replacement.value.to(activation).expand_as(activation)
        if replacement.adds:
            value = activation + value
        if replacement.mask is None:
            return value
        return torch.where(replacement.mask[..., None], value, activation)


NO_EDITS = LayerEdits()


Value = tuple[torch.Tensor, Bool[torch.Tensor, " token"] | None]


def layer_edits(
    changes: Iterable[tuple[int | np.ndarray, Sequence[Edit]]],
    n_rows: int,
    n_tokens: int,
    n_heads: int,
    value_of: Callable[[SiteEdit], Value],
    device: torch.device,
) -> LayerEdits:
    """The edits of some rows to one layer, by row or rows; equal values are shared."""
    # What is put at the tokens of all rows, and at which (None is all), is asked of ``value_of``.
    replacements: dict[str, list[Replacement]] = {}
    values: dict[Hashable, Value] = {}
    for row, edits in changes:
        for edit in edits:
            if isinstance(edit, (SkipLayer, SwapWeights)):  # puts nothing at any site
                continue
            key = edit.value_key
            if key not in values:
                values[key] = value_of(edit)
            value, where = values[key]
            heads = changed_heads(edit, n_heads)
            if n_rows > 1 or where is not None or heads is not None:
                mask = torch.zeros(n_rows, n_tokens, dtype=torch.bool, device=device)
                mask[row] = True if where is None else where
                where = mask
                if edit.site in BY_HEAD:
                    where = mask[..., None] & head_mask(heads, n_heads, device)
            replacements.setdefault(edit.site, []).append(Replacement(value, where, edit.adds))
    if not replacements:
        return NO_EDITS
    return LayerEdits({site: _merge_replacements(parts) for site, parts in replacements.items()})


def source_tokens(
    edit: SiteEdit,
    n_tokens: int,
    paths: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int] | None],
    n_given: Sequence[int],
) -> Int[torch.Tensor, " token"]:
    """The token whose activation an edit puts at each token; -1 where it puts none."""
    source_of = torch.full((n_tokens,), -1, dtype=torch.long)
    for path, source, given in zip(paths, sources, n_given, strict=True):
        assert source is not None, "the plan refuses such edits without a source"
        for pos, source_pos in edit.source_positions(len(path), given, len(source)):
            source_of[path[pos]] = source[source_pos]
    return source_of


def head_mask(
    heads: Sequence[int] | None, n_heads: int, device: torch.device
) -> Bool[torch.Tensor, " head"]:
    """Mask of the chosen heads; None means all."""
    every = torch.arange(n_heads, device=device)
    return torch.isin(every, every if heads is None else torch.tensor(heads).to(every))


def _merge_replacements(parts: Sequence[Replacement]) -> tuple[Replacement, ...]:
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
