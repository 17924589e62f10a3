"""What is changed within one layer for one batch of activations, ready to be applied.

Both block runners ask the same three questions of it: what becomes of an output, need it be
computed at all, and what leaves the layer. Knows neither interventions nor requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float

Activation = Float[torch.Tensor, "group token d_model"]


@dataclass(frozen=True)
class Replacement:
    """A new value for a site, everywhere or where ``mask`` is true.

    Attributes:
        value: broadcasts to the activation.
        mask: where; None is everywhere.
    """

    value: Float[torch.Tensor, ...]
    mask: Bool[torch.Tensor, "group token"] | None = None


@dataclass(frozen=True)
class LayerEdits:
    """All changes to one layer.

    Attributes:
        sites: replacements by site name, applied in order.
        skip: where the layer is left out; True is everywhere.
    """

    sites: dict[str, tuple[Replacement, ...]] = field(default_factory=dict)
    skip: Bool[torch.Tensor, "group token"] | bool = False

    def output(self, site: str, compute: Callable[[], Activation], like: Activation) -> Activation:
        """The activation of a site after the changes; computed only if any of it survives."""
        replacements = self.sites.get(site, ())
        if replacements and replacements[0].mask is None:
            first, *rest = replacements
            out = first.value.to(like).expand_as(like)
        else:
            out, rest = compute(), list(replacements)
        for replacement in rest:
            out = self._replaced(out, replacement)
        return out

    def changed(self, site: str, activation: Activation) -> Activation:
        """A given activation of a site after the changes."""
        return self.output(site, lambda: activation, activation)

    def leaving(self, resid_pre: Activation, compute: Callable[[], Activation]) -> Activation:
        """The residual stream that leaves the layer."""

        def skipped() -> Activation:
            if self.skip is True:
                return resid_pre
            out = compute()
            return (
                torch.where(self.skip[..., None], resid_pre, out) if self.skip is not False else out
            )

        return self.output("resid_post", skipped, resid_pre)

    @staticmethod
    def _replaced(activation: Activation, replacement: Replacement) -> Activation:
        if replacement.mask is None:
            return replacement.value.to(activation).expand_as(activation)
        return torch.where(
            replacement.mask[..., None], replacement.value.to(activation), activation
        )


NO_EDITS = LayerEdits()
