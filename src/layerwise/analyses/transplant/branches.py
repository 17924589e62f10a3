"""Changes as interventions: branches of one sweep with blocks of the other, or its activations."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerwise.models.instance.kinds import Model, heads_per_key, n_encoder_layers
from layerwise.runs.dry_sweeps import Sweeper
from layerwise.sweep import Generate, Intervention, Sweep, together
from layerwise.sweep.changes.edits import BLOCK, EMBED, END, MEMORY_NORM, SwapWeights
from layerwise.sweep.changes.interventions import from_donor, with_weights
from layerwise.sweep.changes.other_weights import OtherWeights
from layerwise.sweep.requests import Request

from . import names
from .names import BY_HEAD, KV_GROUP
from .spec import Change
from .weights import donated

# The share of the memory budget that copies of weights may take while texts are written.
FOR_COPIES = 8


def is_alone(change: Change) -> bool:
    """Whether a change needs the model to itself, all of whose layers it concerns.

    T5's relative positions are read in all layers. Embeddings on the way between two models would
    be made anew for every new token of a text.
    """
    on_the_way = change.site in names.OF_NO_LAYER and change.t != 1
    return on_the_way or change.site == names.RELATIVE


@dataclass(frozen=True)
class Exchange:
    """What a model gets of another, as changes of its weights that a sweep can make.

    What several changes have in common (the same layer, as far on the way) is one value, so that
    their branches part only where they differ.

    Attributes:
        host: the model.
        donor: the other.
    """

    host: Model
    donor: Model
    known: dict[Hashable, OtherWeights] = field(default_factory=dict, repr=False)

    def intervention(self, change: Change) -> Intervention:
        """A change of weights as what a sweep makes of it."""
        return with_weights(change.id, change.site, tuple(self._edits(change)))

    def _edits(self, change: Change) -> Iterator[SwapWeights]:
        if change.site in names.OF_NO_LAYER:
            weights, last = self._weights(change, (), ()), self.host.cfg.n_layers
            n_encoder = n_encoder_layers(self.host)
            if change.site in (names.EMBED, names.TIED):
                yield SwapWeights(0, EMBED, weights)
            if change.site == names.FINAL_NORM and n_encoder:
                yield SwapWeights(n_encoder - 1, MEMORY_NORM, weights)
            if change.site in (names.UNEMBED, names.TIED, names.FINAL_NORM):
                yield SwapWeights(last, END, weights)
            return
        for layer in sorted(set(change.layers)):
            heads = tuple(
                head
                for of, head in zip(change.layers, change.heads, strict=False)
                if of == layer
            )  # fmt: skip
            layers = (layer,) * max(1, len(heads))
            yield SwapWeights(layer, BLOCK, self._weights(change, layers, heads))

    def _weights(
        self, change: Change, layers: tuple[int, ...], heads: tuple[int, ...]
    ) -> OtherWeights:
        key = (change.site, change.t, layers, tuple(sorted(heads)))
        if key not in self.known:
            made = donated(self.host, self.donor, change.site, layers, change.t, heads)
            self.known[key] = made
        return self.known[key]

    def together(
        self, changes: Sequence[Change], writes: bool, memory_budget: int
    ) -> Iterator[tuple[Change, ...]]:
        """Changes that one sweep makes: all, but for those that each need the model to itself.

        While texts are written the copies of weights that branches need are all there, so that as
        many changes are made at once as an eighth of the memory budget has room for.
        """
        yield from ((one,) for one in changes if is_alone(one))
        room = memory_budget // FOR_COPIES if writes else None
        group: list[Change] = []
        copies: set[OtherWeights] = set()
        for change in (one for one in changes if not is_alone(one)):
            own_copies = {edit.weights for edit in self._edits(change)}
            more = sum(copy.copied_bytes for copy in copies | own_copies)
            if group and room is not None and more > room:
                yield tuple(group)
                group, copies = [], set()
            group.append(change)
            copies |= own_copies
        if group:
            yield tuple(group)


def patched_with(change: Change, donor: Model) -> Intervention:
    """A change of activations as what a sweep makes of it.

    The activations are those that leave the layers, or their parts or heads, at every position.
    """
    site: Any = {"layer": "resid_post", KV_GROUP: "z"}.get(change.site, change.site)
    if change.site not in BY_HEAD:
        return together([from_donor(site, layer, donor) for layer in change.layers])
    n_shared = heads_per_key(donor.cfg) if change.site == KV_GROUP else 1
    by_layer: dict[int, tuple[int, ...]] = {}
    for layer, head in zip(change.layers, change.heads, strict=True):
        of = range(head * n_shared, (head + 1) * n_shared)
        by_layer[layer] = (*by_layer.get(layer, ()), *of)
    return together([from_donor(site, layer, donor, heads) for layer, heads in by_layer.items()])


def swept_with_donor(
    by: Sweeper, changes: Sequence[Intervention], requests: Sequence[Request], method: str
) -> Sweep:
    """Answers under another model's activations; texts by plain forwards of both models."""
    texts = [isinstance(request, Generate) for request in requests]
    by_change: list[dict[int, Any]] = [{} for _ in changes]
    stats = []
    for written, how in ((False, method), (True, "reference")):
        chosen = [i for i, is_text in enumerate(texts) if is_text == written]
        if chosen:
            swept = by.sweep(changes, [requests[i] for i in chosen], how)
            stats.append(swept.stats)
            for outcomes, by_request in zip(swept.outcomes, by_change, strict=True):
                by_request.update(zip(chosen, outcomes, strict=True))
    outcomes = [[by_request[i] for i in range(len(requests))] for by_request in by_change]
    return Sweep(outcomes, stats[0] if len(stats) == 1 else stats[0] + stats[1])
