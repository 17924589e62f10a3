"""Edits: one change within one layer each, as a frozen value that answers what a sweep asks of it.

What a change means is written here once; the engine asks the edits, and the reference says the
same in hooks of its own, so that the two cannot share a mistake. Nothing here runs a model.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import nn

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class OtherWeights:
    """Replacement tensors for some of a model's weights."""

    # By parameter of the model what gives the tensor in its place, asked when it is needed; another
    # model's own memory, or a tensor that is made anew.
    made: Mapping[nn.Parameter, Callable[[], torch.Tensor]]
    copied_bytes: int = 0  # memory of those that are made anew

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put these weights into the model within the context; restore its own afterwards."""
        own = {weight: weight.data for weight in self.made}
        try:
            for weight, make in self.made.items():
                weight.data = make()
            yield
        finally:
            for weight, before in own.items():
                weight.data = before

    def twin(self, block: _T) -> _T:
        """A copy of a block, or of its parts, with these weights in place of its own."""
        memo: dict[int, Any] = {}
        for module in _block_modules(block):
            kept = [*module.parameters(), *module.buffers()]
            settings = [m.__dict__.get(name) for m in module.modules() for name in _SETTINGS]
            memo |= {id(name): name for name in (*kept, *settings) if name is not None}
            for weight in module.parameters():
                if weight in self.made:
                    memo[id(weight)] = nn.Parameter(self.made[weight](), requires_grad=False)
        return copy.deepcopy(block, memo)


_SETTINGS = ("cfg", "config")


def _block_modules(block: Any) -> Iterator[nn.Module]:
    """The modules of a block: itself and those of its parts, or those that its fields hold."""
    if isinstance(block, nn.Module):
        yield block
        yield from _block_modules(getattr(block, "parts", None))
    elif is_dataclass(block):
        for value in vars(block).values():
            yield from _block_modules(value)


def in_place(weights: OtherWeights | None) -> contextlib.AbstractContextManager[None]:
    """As ``OtherWeights.in_place``; with None the model stays as it is."""
    return contextlib.nullcontext() if weights is None else weights.in_place()


Value = Float[torch.Tensor, "..."]
Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z",
    "cross_z", "cross_attn_out", "resid_mid_cross",
]  # fmt: skip
SITES: tuple[str, ...] = get_args(Site)
CROSS_SITES = ("cross_z", "cross_attn_out", "resid_mid_cross")
"""Those that only the decoder of an encoder-decoder has."""
BY_HEAD = ("z", "cross_z")


class _Edit:
    """Base of edits: what a sweep asks of them, with the usual answers."""

    needs_source: ClassVar[bool] = False
    """True if it takes activations of the request's source run."""
    adds: ClassVar[bool] = False
    """True if its value is added to the activation, rather than put in its place."""

    given_as: ClassVar[str | None] = None
    """The field of a tensor, model or weights that count by which object they are."""

    @property
    def given_object(self) -> object | None:
        """The object that was given, if it has one."""
        return None if self.given_as is None else getattr(self, self.given_as)

    @property
    def donor(self) -> object | None:
        """The other model whose activations it takes on the same tokens; None if there is none."""
        return None

    @property
    def position(self) -> int | None:
        """The position of the request's context that is changed; None is every position."""
        return None

    @property
    def source_position(self) -> int | None:
        """The position of the source run that is taken; None is that which is changed."""
        return None

    @property
    def resamples(self) -> bool:
        """True if every position gets an activation of the source run."""
        return self.needs_source and self.position is None

    @property
    def replaces_layer(self: Any) -> bool:
        """True if the layer's whole output is replaced, so that it need not be run."""
        if self.site != "resid_post":
            return self.site == "layer"
        return not self.adds and self.position is None

    @property
    def identity(self) -> Hashable:
        """A key that two edits share exactly if they make the same change."""
        return self, id(self.given_object)

    @property
    def value_key(self: Any) -> Hashable:
        """A key that edits of one layer share if they put the same values, on any rows or heads."""
        return type(self), self.site, self.position, self.source_position, id(self.given_object)

    def position_values(
        self, positions: Int[torch.Tensor, "group token"]
    ) -> Float[torch.Tensor, ...] | None:
        """Vectors that it puts, or adds, at positions; None if they are of another run."""
        return None

    def source_positions(
        self, n_sequence: int, n_context: int, n_source: int
    ) -> Iterator[tuple[int, int]]:
        """Changed positions, each with its position of the other run."""
        return iter(())


@dataclass(frozen=True)
class SkipLayer(_Edit):
    """Leave the whole block out: ``resid_post`` becomes ``resid_pre``."""

    site: ClassVar[str] = "layer"
    heads: ClassVar[None] = None

    layer: int


@dataclass(frozen=True)
class _GivenSite(_Edit):
    """A change of a site by given vectors."""

    given_as = "value"

    layer: int
    site: Site
    value: Value = field(compare=False, repr=False)
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SetSite(_GivenSite):
    """Replace a site's activation by given vectors at every position, generated ones too.

    Attributes:
        layer: the layer.
        site: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out`` or ``z``; in
            the decoder of an encoder-decoder also ``cross_attn_out``, ``resid_mid_cross`` (behind
            cross-attention) and ``cross_z``, its heads.
        value: the vector, a mean for a mean ablation; one number stands for all dimensions. With
            one more dimension in front, the vector of each position from 0 on; the last one
            serves all positions from there on.
        heads: which heads of ``z``; None for all, and for all other sites.
    """

    @property
    def by_position(self) -> bool:
        """True if positions have vectors of their own."""
        return self.value.ndim == (3 if self.site in BY_HEAD else 2)

    def position_values(
        self, positions: Int[torch.Tensor, "group token"]
    ) -> Float[torch.Tensor, ...]:
        """The given vectors; they broadcast to the site's activation."""
        value = self.value.to(positions.device)
        return value[positions.clamp(max=len(value) - 1)] if self.by_position else value


@dataclass(frozen=True)
class AddSite(_GivenSite):
    """Add given vectors to a site's activation at every position, generated ones too.

    Attributes:
        layer: the layer.
        site: as in ``SetSite``.
        value: position p gets vector p, and from the end of the table on they begin again.
        heads: as in ``SetSite``.
    """

    adds = True

    def position_values(
        self, positions: Int[torch.Tensor, "group token"]
    ) -> Float[torch.Tensor, ...]:
        """The given vectors; they broadcast to the site's activation."""
        value = self.value.to(positions.device)
        return value[positions % len(value)]


@dataclass(frozen=True)
class CopySite(_Edit):
    """Replace a site's activation at every position by that of the request's source run.

    The two prompts may differ in length; ``source_position`` says which position is taken.

    Attributes:
        layer: the layer.
        site: as in ``SetSite``.
        heads: as in ``SetSite``.
    """

    needs_source = True

    layer: int
    site: Site
    heads: tuple[int, ...] | None = None

    def source_positions(
        self, n_sequence: int, n_context: int, n_source: int
    ) -> Iterator[tuple[int, int]]:
        """Every position, with that of the source run which stands for it."""
        for pos in range(n_sequence):
            yield pos, source_position(pos, n_context, n_source)


@dataclass(frozen=True)
class PatchSite(_Edit):
    """Replace a site's activation at one position by that of the request's source run.

    Attributes:
        layer: the layer.
        site: the site; ``z`` is a head's output before the output projection.
        pos: position in the request's context; negative counts from its end.
        head: which head, for ``z``; None for all other sites.
        source_pos: position in the source run; None for the same, of a run of the same length.
    """

    needs_source = True

    layer: int
    site: Site
    pos: int
    head: int | None = None
    source_pos: int | None = None

    @property
    def position(self) -> int:
        """``pos``."""
        return self.pos

    @property
    def source_position(self) -> int | None:
        """``source_pos``."""
        return self.source_pos

    @property
    def heads(self) -> tuple[int, ...] | None:
        """The head; None for sites that have none."""
        return None if self.head is None else (self.head,)

    def source_positions(
        self, n_sequence: int, n_context: int, n_source: int
    ) -> Iterator[tuple[int, int]]:
        """One position, with that of the source run."""
        pos = self.pos % n_context
        yield pos, pos if self.source_pos is None else self.source_pos % n_source


@dataclass(frozen=True)
class DonorSite(_Edit):
    """Replace a site's activation at every position by another model's on the same tokens."""

    given_as = "model"

    layer: int
    site: Site  # as in ``SetSite``
    # A model of the same architecture, which is run as it is.
    model: object = field(compare=False, repr=False)
    heads: tuple[int, ...] | None = None  # as in ``SetSite``

    @property
    def donor(self) -> object:
        """The model."""
        return self.model

    def source_positions(
        self, n_sequence: int, n_context: int, n_source: int
    ) -> Iterator[tuple[int, int]]:
        """Every position, with the same position of the donor's run."""
        return ((pos, pos) for pos in range(n_sequence))


@dataclass(frozen=True)
class ApplySite(_Edit):
    """Replace a site's activation by a function of it; the reference alone runs it."""

    heads: ClassVar[None] = None
    given_as = "function"

    layer: int
    site: Site  # as in ``SetSite``
    # Of one prompt's activation, ``[pos, ...]``, and gives one of the same shape.
    function: Callable[[torch.Tensor], torch.Tensor] = field(compare=False, repr=False)


Place = Literal["block", "embed", "memory_norm", "end"]
BLOCK, EMBED, MEMORY_NORM, END = PLACES = get_args(Place)
"""Places of exchanged weights: a layer's block, embeddings, behind the encoder, behind all layers.

Embeddings are an edit of layer 0, the norm behind the encoder one of its last layer, and what
stands behind all layers one of the layer that would follow them.
"""


@dataclass(frozen=True)
class SwapWeights(_Edit):
    """Run a layer, or what stands before or behind the layers, with other weights."""

    heads: ClassVar[None] = None
    given_as = "weights"

    layer: int  # the layer; that of its place if it is none
    site: Place
    weights: OtherWeights = field(compare=False, repr=False)  # the weights there


SiteEdit = SetSite | AddSite | CopySite | PatchSite | DonorSite | ApplySite
Edit = SkipLayer | SwapWeights | SiteEdit


def changed_heads(edit: SiteEdit, n_heads: int) -> tuple[int, ...] | None:
    """Indices of the changed heads out of ``n_heads``; None means all."""
    return None if edit.heads is None or len(edit.heads) == n_heads else edit.heads


def source_position(pos: int, n_context: int, n_source: int) -> int:
    """Map a position of a sequence to the corresponding position of its source run."""
    # The first position, an attention sink, stands for itself. All others are counted from the end
    # of the prompts, where the answer is asked for; a shorter source begins again at its second
    # token. What follows the prompt, generated or scored, gets the source's last position.
    if pos == 0 or n_source == 1:
        return 0
    place = n_source - n_context + min(pos, n_context - 1)
    return 1 + (place - 1) % (n_source - 1)
