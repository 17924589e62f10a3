"""Interventions: a change to a forward pass as a frozen value with a readable id.

What a change means is written here once; the engine and the reference both implement it.
Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float

from layerwise.errors import UserError, unknown_name

Site = Literal["resid_pre", "resid_post", "attn_out", "mlp_out"]
SITES: tuple[str, ...] = get_args(Site)
PatchableSite = Literal["resid_pre", "resid_post", "attn_out", "mlp_out", "z"]


@dataclass(frozen=True)
class SkipLayer:
    """Leave the whole block out: ``resid_post`` becomes ``resid_pre``."""

    layer: int


@dataclass(frozen=True)
class SetSite:
    """Replace a site's activation by one vector at every position, generated ones too.

    Attributes:
        layer: the layer.
        site: ``resid_pre``, ``resid_post``, ``attn_out`` or ``mlp_out``.
        value: the vector, a mean for a mean ablation; one number stands for all dimensions.
    """

    layer: int
    site: Site
    value: Float[torch.Tensor, " d_model"] = field(compare=False, repr=False)


@dataclass(frozen=True)
class PatchSite:
    """Replace a site's activation at one position by that of the request's source run.

    Attributes:
        layer: the layer.
        site: the site; ``z`` is a head's output before the output projection.
        pos: position in the request's context; negative counts from its end.
        head: which head, for ``z``; None for all other sites.
    """

    layer: int
    site: PatchableSite
    pos: int
    head: int | None = None


Edit = SkipLayer | SetSite | PatchSite


@dataclass(frozen=True)
class Intervention:
    """One change to one forward pass: some edits, and the id they go by.

    Attributes:
        id: e.g. ``"skip:layer=7"``, ``"zero:attn_out,layer=3"``, ``"intact"``.
        kind: ``intact``, ``skip``, ``zero``, ``mean`` or ``patch``.
        site: ``layer`` for a skipped layer, the site's name otherwise, None for intact.
        edits: what is changed; none for the intact model. Within one layer a change of
            ``resid_pre`` comes first, then a skip, then changes of the other sites.
    """

    id: str
    kind: str
    site: str | None
    edits: tuple[Edit, ...]

    @property
    def layer(self) -> int | None:
        """The first layer that is changed; None for the intact model."""
        return min((edit.layer for edit in self.edits), default=None)


def intact() -> Intervention:
    """The model as it is."""
    return Intervention("intact", "intact", None, ())


def skip(layer: int, site: str = "layer") -> Intervention:
    """Leave layer ``layer`` out, or its attention or MLP only.

    Skipping a whole layer is the layer pruning of Song et al. 2025 (arXiv:2510.02091).

    Args:
        layer: the layer.
        site: ``layer``, ``attn_out`` or ``mlp_out``; a sublayer that is left out adds nothing
            to the residual stream, so for these two a skip equals ``zero``.

    Raises:
        UserError: if the site cannot be skipped.
    """
    if site == "layer":
        return Intervention(f"skip:layer={layer}", "skip", "layer", (SkipLayer(layer),))
    if site not in ("attn_out", "mlp_out"):
        raise unknown_name("site to skip", site, ("layer", "attn_out", "mlp_out"))
    edits = zero(site, layer).edits
    return Intervention(f"skip:{site},layer={layer}", "skip", site, edits)


def skip_layers(layers: Iterable[int]) -> Intervention:
    """Leave several whole layers out: a pruned model, measured without building it.

    Args:
        layers: which, each once.

    Raises:
        UserError: if no layer is given, or one twice.
    """
    given = list(layers)
    if not given or len(set(given)) < len(given):
        raise UserError(
            f"The layers to skip are {given}; expected at least one, and each only once."
        )
    if len(given) == 1:
        return skip(given[0])
    named = "+".join(str(layer) for layer in sorted(given))
    edits = tuple(SkipLayer(layer) for layer in sorted(given))
    return Intervention(f"skip:layers={named}", "skip", "layer", edits)


def zero(site: Site, layer: int) -> Intervention:
    """Set ``site`` of ``layer`` to zero at every position.

    Zeroing ``resid_post`` wipes out all that earlier layers wrote; it is not a skip.
    """
    edit = SetSite(layer, site, torch.zeros(1))
    return Intervention(f"zero:{site},layer={layer}", "zero", site, (edit,))


def mean(site: Site, layer: int, value: Float[torch.Tensor, " d_model"]) -> Intervention:
    """Set ``site`` of ``layer`` to a mean activation at every position."""
    edit = SetSite(layer, site, value)
    return Intervention(f"mean:{site},layer={layer}", "mean", site, (edit,))


def patch(site: PatchableSite, layer: int, pos: int, head: int | None = None) -> Intervention:
    """Put the source run's activation of ``site`` at ``layer`` and ``pos`` in its place.

    Args:
        site: ``resid_pre``, ``resid_post``, ``attn_out``, ``mlp_out``; ``z`` for one head.
        layer: the layer.
        pos: position in the request's context; negative counts from its end.
        head: which head; needed for ``z`` and for no other site.

    Raises:
        UserError: if ``z`` comes without a head, or another site with one.
    """
    if (site == "z") != (head is not None):
        raise UserError(
            f"Site {site!r} was given head {head}; a head is needed for site 'z' and for no other."
        )
    named = "" if head is None else f",head={head}"
    edit = PatchSite(layer, site, pos, head)
    return Intervention(f"patch:{site},layer={layer}{named},pos={pos}", "patch", site, (edit,))
