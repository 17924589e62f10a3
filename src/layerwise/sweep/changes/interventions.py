"""Interventions: a change to a forward pass as a frozen value with a readable id.

Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from layerwise.errors import UserError, unknown_name

from .edits import (
    BY_HEAD,
    SITES,
    AddSite,
    ApplySite,
    CopySite,
    DonorSite,
    Edit,
    PatchSite,
    SetSite,
    Site,
    SkipLayer,
    SwapWeights,
    Value,
)


@dataclass(frozen=True)
class Intervention:
    """One change to one forward pass: some edits, and the id they go by.

    Attributes:
        id: e.g. ``"skip:layer=7"``, ``"zero:attn_out,layer=3"``, ``"intact"``.
        kind: ``intact``, ``skip``, ``zero``, ``mean``, ``resample``, ``noise``, ``patch`` or
            ``swap``, ``apply``.
        site: ``layer`` for a skipped layer, ``layers`` for several, the site's name otherwise,
            ``kv_group`` for all heads that share a key/value head; None for intact.
        edits: what is changed; none for the intact model. Within one layer a change of
            ``resid_pre`` comes first, then a skip, then changes of the other sites.
        head: the one head that is changed, or the one key/value group; None if it is not one.
        parts: the changes that it makes at once, if it was made of several.
    """

    id: str
    kind: str
    site: str | None
    edits: tuple[Edit, ...]
    head: int | None = None
    parts: tuple[Intervention, ...] = field(default=(), compare=False, repr=False)

    @property
    def layer(self) -> int | None:
        """The first layer that is changed; None for the intact model."""
        return min((edit.layer for edit in self.edits), default=None)

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers that are changed, in ascending order."""
        return tuple(sorted({edit.layer for edit in self.edits}))

    @property
    def places(self) -> tuple[tuple[int, int | None], ...]:
        """The layer of each change, and its head or key/value group if it is of one."""
        if self.parts:
            return tuple(place for part in self.parts for place in part.places)
        return tuple((layer, self.head) for layer in self.layers)


def intact() -> Intervention:
    """The model as it is."""
    return Intervention("intact", "intact", None, ())


def skip(layer: int, site: str = "layer", head: int | None = None) -> Intervention:
    """Leave layer ``layer`` out, or its attention, its MLP or one head only.

    Skipping a whole layer is the layer pruning of Song et al. 2025 (arXiv:2510.02091).

    Args:
        layer: the layer.
        site: ``layer``, ``attn_out``, ``mlp_out`` or ``z``; what is left out of a sublayer adds
            nothing to the residual stream, so for these three a skip equals ``zero``.
        head: which head, for ``z``.

    Raises:
        UserError: if the site cannot be skipped, or has no heads.
    """
    if site == "layer":
        return Intervention(f"skip:layer={layer}", "skip", "layer", (SkipLayer(layer),))
    sublayers = ("attn_out", "mlp_out", "z", "cross_attn_out", "cross_z")
    if site not in sublayers:
        raise unknown_name("site to skip", site, ("layer", *sublayers))
    same = zero(site, layer, head)  # type: ignore[arg-type]
    return replace(same, id="skip" + same.id.removeprefix("zero"), kind="skip")


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
    return Intervention(f"skip:layers={named}", "skip", "layers", edits)


_ZERO = torch.zeros(1, dtype=torch.float32)


def zero(site: Site, layer: int, head: int | None = None) -> Intervention:
    """Set ``site`` of ``layer``, or one head of ``z``, to zero at every position.

    Zeroing ``resid_post`` wipes out all that earlier layers wrote; it is not a skip.

    Raises:
        UserError: if a head is given for another site than ``z``.
    """
    return _single_edit("zero", SetSite(layer, site, _ZERO, _heads(site, head)))


def mean(site: Site, layer: int, value: Value, head: int | None = None) -> Intervention:
    """Set ``site`` of ``layer``, or one head of ``z``, to a mean activation at every position.

    Args:
        site: the site.
        layer: the layer.
        value: the mean, of all heads for ``z``; with one more dimension in front that of each
            position, the last one for all further positions.
        head: which head, for ``z``.

    Raises:
        UserError: if a head is given for another site than ``z``.
    """
    return _single_edit("mean", SetSite(layer, site, value, _heads(site, head)))


def resample(site: Site, layer: int, head: int | None = None) -> Intervention:
    """Put the source run's activation of ``site``, or of one head, in its place everywhere.

    Resample ablation (Chan et al. 2022, "Causal scrubbing"): the source is another item's prompt.

    Raises:
        UserError: if a head is given for another site than ``z``.
    """
    return _single_edit("resample", CopySite(layer, site, _heads(site, head)))


def noise(site: Site, layer: int, value: Value, head: int | None = None) -> Intervention:
    """Add noise to ``site`` of ``layer``, or to one head of ``z``, at every position.

    Args:
        site: the site.
        layer: the layer.
        value: draws of the noise by position, of all heads for ``z``; see ``site_noise``.
        head: which head, for ``z``.

    Raises:
        UserError: if a head is given for another site than ``z``.
    """
    return _single_edit("noise", AddSite(layer, site, value, _heads(site, head)))


def apply(
    site: str,
    layer: int,
    function: Callable[[torch.Tensor], torch.Tensor],
    *,
    name: str | None = None,
) -> Intervention:
    """Put a function of a site's activation in its place: an intervention of your own.

    The engine cannot know what a function does. So this takes the slow path: the reference, one
    plain forward with hooks for each intervention and prompt. ``intervene`` takes it by itself;
    ``sweep`` needs ``method="reference"``.

    Args:
        site: the site.
        layer: the layer.
        function: takes the activation of one prompt, ``[pos, d_model]``, of ``z`` and ``cross_z``
            ``[pos, n_heads, d_head]``, and gives one of the same shape. In a text that is being
            written ``pos`` grows.
        name: of the function, in the id; its ``__name__`` if None.

    Raises:
        UserError: for a site that no model has.

    Examples:
        >>> from layerwise import sweep
        >>> sweep.apply("mlp_out", 3, lambda x: 0.5 * x, name="halved").id
        'apply:mlp_out,layer=3,halved'
    """
    if site not in SITES:
        raise unknown_name("site", site, SITES)
    named = getattr(function, "__name__", type(function).__name__) if name is None else name
    edit = ApplySite(layer, cast(Site, site), function)
    return Intervention(f"apply:{site},layer={layer},{named}", "apply", site, (edit,))


def refuse_functions(interventions: Iterable[Intervention]) -> None:
    """Refuse interventions that the engine cannot run."""
    for intervention in interventions:
        if runs_functions(intervention):
            raise UserError(
                f"Intervention {intervention.id!r} runs a function of yours, which the engine does "
                "not know: expected method='reference', which makes one plain forward for each "
                "intervention and request and is slower; pass it."
            )


def runs_functions(intervention: Intervention) -> bool:
    """True if an intervention applies a function to a site."""
    return any(isinstance(edit, ApplySite) for edit in intervention.edits)


def from_donor(
    site: Site, layer: int, donor: object, heads: tuple[int, ...] | None = None
) -> Intervention:
    """Put another model's activation of ``site`` in its place, of the same tokens."""
    # Log-likelihoods are asked of the engine; texts of the reference alone, which runs the donor on
    # the prompt and all that was written so far.
    edit = DonorSite(layer, site, donor, heads)
    named = "" if heads is None else f",heads={'+'.join(map(str, heads))}"
    return Intervention(f"donor:{site},layer={layer}{named}", "donor", site, (edit,))


def with_weights(named: str, site: str, edits: Sequence[SwapWeights]) -> Intervention:
    """Run the model with other weights in some places, for this intervention only."""
    # A branch of the sweep runs from the first of these places on with blocks of its own, which
    # share all other weights with the model's.
    return Intervention(named, "transplant", site, tuple(edits))


def distinct_donors(interventions: Iterable[Intervention]) -> list[Any]:
    """All donor models of some interventions, each once."""
    donors = {
        id(edit.donor): edit.donor
        for intervention in interventions
        for edit in intervention.edits
        if edit.donor is not None
    }
    return list(donors.values())


def of_kv_group(group: int, n_shared: int, change: Callable[[int], Intervention]) -> Intervention:
    """One change made to all heads that share a key/value head.

    Their common keys and values are left alone: no other head reads them.

    Args:
        group: which key/value head.
        n_shared: how many query heads share one.
        change: makes the change to one head of ``z``.
    """
    heads = tuple(range(group * n_shared, (group + 1) * n_shared))
    of_head = change(heads[0])
    edits = tuple(replace(edit, heads=heads) for edit in of_head.edits)
    named = f"{of_head.kind}:kv_group,layer={of_head.layer},group={group}"
    return Intervention(named, of_head.kind, "kv_group", edits, group)


def together(changes: Sequence[Intervention]) -> Intervention:
    """Several changes made at once.

    Args:
        changes: at least one; all skips of whole layers, or of other kinds.

    Raises:
        UserError: if none is given.
    """
    if not changes:
        raise UserError("No changes to make together; name at least one.")
    if len(changes) == 1:
        return changes[0]
    first = changes[0]
    if all(change.kind == "skip" and change.site == "layer" for change in changes):
        return skip_layers(edit.layer for change in changes for edit in change.edits)
    same = {(change.kind, change.site) for change in changes}
    kind, site = (first.kind, first.site) if len(same) == 1 else ("several", None)
    edits = tuple(edit for change in changes for edit in change.edits)
    named = "+".join(change.id for change in changes)
    return Intervention(named, kind, site, edits, parts=tuple(changes))


def _heads(site: str, head: int | None) -> tuple[int, ...] | None:
    if head is None:
        return None
    if site not in BY_HEAD:
        raise UserError(
            f"Site {site!r} was given head {head}; heads can be told apart in site 'z' alone, and "
            "in 'cross_z' of an encoder-decoder."
        )
    return (head,)


def _single_edit(kind: str, edit: SetSite | AddSite | CopySite) -> Intervention:
    head = None if edit.heads is None else edit.heads[0]
    named = "" if head is None else f",head={head}"
    return Intervention(
        f"{kind}:{edit.site},layer={edit.layer}{named}", kind, edit.site, (edit,), head
    )


def patch(
    site: Site, layer: int, pos: int, head: int | None = None, *, source_pos: int | None = None
) -> Intervention:
    """Put the source run's activation of ``site`` at ``layer`` and ``pos`` in its place.

    Args:
        site: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``; ``z`` for one
            head.
        layer: the layer.
        pos: position in the request's context; negative counts from its end.
        head: which head; needed for ``z`` and for no other site.
        source_pos: position in the source run, which may then have another length; the same as
            ``pos`` if None.

    Raises:
        UserError: if ``z`` comes without a head, or another site with one.
    """
    if (site in BY_HEAD) != (head is not None):
        raise UserError(
            f"Site {site!r} was given head {head}; a head is needed for site 'z' and for no other "
            "(but 'cross_z' of an encoder-decoder)."
        )
    named = "" if head is None else f",head={head}"
    named += f",pos={pos}" + ("" if source_pos is None else f",source_pos={source_pos}")
    edit = PatchSite(layer, site, pos, head, source_pos)
    return Intervention(f"patch:{site},layer={layer}{named}", "patch", site, (edit,), head)
