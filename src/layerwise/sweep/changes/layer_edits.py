"""What is changed within one layer for one batch of activations, ready to be applied.

Both block runners ask the same three questions of it: what becomes of an output, need it be
computed at all, and what leaves the layer. Knows neither interventions nor requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int

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
    """All changes to one layer."""

    # Replacements by site name, applied in order.
    sites: dict[str, tuple[Replacement, ...]] = field(default_factory=dict)

    def changes(self, site: str) -> bool:
        """Whether a site is changed anywhere."""
        return bool(self.sites.get(site))

    def where(self, site: str) -> Bool[torch.Tensor, "group token"] | None:
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
            out = self._replaced(out, replacement)
        return out

    def changed(self, site: str, activation: AtSite) -> AtSite:
        """Apply the changes to a given activation of a site."""
        return self.output(site, lambda: activation, activation)

    def leaving(self, resid_pre: AtSite, compute: Callable[[], AtSite]) -> AtSite:
        """The residual stream that leaves the layer."""
        return self.output("resid_post", compute, resid_pre)

    def of_rows(self, rows: Int[torch.Tensor, " row"]) -> LayerEdits:
        """The changes to some rows of the group."""
        return LayerEdits(
            {site: tuple(r.cut(rows) for r in changes) for site, changes in self.sites.items()}
        )

    @staticmethod
    def _replaced(activation: AtSite, replacement: Replacement) -> AtSite:
        value = replacement.value.to(activation).expand_as(activation)
        if replacement.adds:
            value = activation + value
        if replacement.mask is None:
            return value
        return torch.where(replacement.mask[..., None], value, activation)


@dataclass(frozen=True)
class Sites:
    """The sites of a layer on one pass through it."""

    edits: LayerEdits  # the changes
    observe: Observe | None  # told of the activation of each site, changed or not

    def output(self, site: str, compute: Callable[[], AtSite], like: AtSite) -> AtSite:
        """As ``LayerEdits.output``."""
        return self._observed(site, self.edits.output(site, compute, like))

    def changed(self, site: str, activation: AtSite) -> AtSite:
        """As ``LayerEdits.changed``."""
        return self._observed(site, self.edits.changed(site, activation))

    def _observed(self, site: str, activation: AtSite) -> AtSite:
        if self.observe is not None:
            self.observe(site, activation)
        return activation


NO_EDITS = LayerEdits()
