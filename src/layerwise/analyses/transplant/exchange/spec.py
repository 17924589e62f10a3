"""Layers, parts and heads put from one model into another, together or not, if they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from layerwise.errors import UserError, short_repr, unknown_name
from layerwise.models.instance.facts import vocabulary_difference
from layerwise.models.instance.kinds import (
    Model,
    decoder_prefix,
    is_quantized,
    is_seq2seq,
    model_backend,
    original_model,
    runs_original_modules,
)  # fmt: skip
from layerwise.models.instance.structure import ASIDE
from layerwise.models.weights.offload import OnDisk
from layerwise.models.weights.quantization import dequantize_advice

from .names import (
    ACTIVATIONS,
    BY_HEAD,
    FROM_FIRST,
    FROM_LAST,
    GREEDY,
    KV_GROUP,
    OF_NO_LAYER,
    SINGLE,
    SITES,
    TOGETHER,
    WEIGHTS,
    WITH_ACTIVATIONS,
)
from .parts import n_site_heads, site_outside, sites_of_layer

_PLAIN = (bool, int, float, str, type(None))
# Differences of architecture are named before what follows from them.
_FIRST = ("original_architecture", "n_layers", "d_model", "d_vocab", "n_heads", "d_head")


def refuse_misfit(base: Model, other: Model) -> None:
    """Accept only two models of one architecture, vocabulary and number format."""
    difference = _difference(base, other)
    if difference is not None:
        what, of_base, of_other = difference
        raise UserError(
            f"Layers of the other model do not fit into the base: {what} is {of_base} in the base "
            f"and {of_other} in the other; expected two models of one architecture and vocabulary, "
            "such as two seeds or a base and its fine-tuned version; load both in the same way."
        )
    for model in (base, other):
        if any(isinstance(weight, OnDisk) for weight in model.parameters()):
            raise UserError(
                "A model's weights are on disk, where they cannot be exchanged: expected both "
                "models in memory; load them without offload."
            )
        if is_quantized(model):
            raise UserError(
                "A model's weights stay quantized, and packed weights cannot be exchanged: "
                f"expected numbers in both models; {dequantize_advice()}."
            )


def _difference(base: Model, other: Model) -> tuple[str, str, str] | None:
    """Difference of two models, and the value in each."""
    kinds = ["an encoder-decoder" if is_seq2seq(m) else "decoder-only" for m in (base, other)]
    if kinds[0] != kinds[1]:
        return "the kind of model", kinds[0], kinds[1]
    backends = [model_backend(model) for model in (base, other)]
    if backends[0] != backends[1]:
        return "the backend", short_repr(backends[0]), short_repr(backends[1])
    settings, other_settings = (_settings(model) for model in (base, other))
    known = sorted(settings.keys() | other_settings.keys())
    for name in (*_FIRST, *known):
        if settings.get(name) != other_settings.get(name):
            return (
                f"the setting {name}",
                short_repr(settings.get(name)),
                short_repr(other_settings.get(name)),
            )
    weights, donated = (dict(model.named_parameters()) for model in (base, other))
    for name in sorted(weights.keys() | donated.keys()):
        both = [_tensor_words(known.get(name)) for known in (weights, donated)]
        if both[0] != both[1]:
            return f"the weight {name}", both[0], both[1]
    if decoder_prefix(base) != decoder_prefix(other):
        return "the decoder's beginning", str(decoder_prefix(base)), str(decoder_prefix(other))
    return vocabulary_difference(base, other)


def _settings(model: Model) -> dict[str, Any]:
    """The settings that decide how a model computes; an original's lists as texts."""
    original: Any = original_model(model) if runs_original_modules(model) else None
    whole = {
        name: value if isinstance(value, _PLAIN) else str(value)
        for name, value in ({} if original is None else original.config.to_dict()).items()
        if not name.startswith("_") and not name.endswith("_token_id")
    }
    known = [*whole.items(), *vars(model.cfg).items()]
    plain = ((k, v.item() if isinstance(v, np.generic) else v) for k, v in known)
    return {k: v for k, v in plain if k not in ASIDE and isinstance(v, _PLAIN)}


def _tensor_words(weight: torch.Tensor | None) -> str:
    if weight is None:
        return "absent"
    kind = str(weight.dtype).removeprefix("torch.")
    return f"{tuple(weight.shape)}, {kind}, on {weight.device}"


MOST_STEPS = 100


@dataclass(frozen=True)
class Change:
    """One set of layers, of their parts or of heads that is put from one model into the other."""

    set: str  # how they were chosen; ``greedy`` is in the order of choice
    site: str  # what of each layer: ``layer``, ``attn_out``, ``z`` and so on
    # The layers, in ascending order; of heads the layer of each; none of what is outside of the
    # layers.
    layers: tuple[int, ...]
    t: float = 1.0  # weights become ``host + t (donor - host)``; 1 is the donor's layer
    # The head or key/value group in each of the layers; empty for other sites.
    heads: tuple[int, ...] = ()
    # ``weights``, or ``activations`` that leave the layer, its part or the head.
    exchange: str = WEIGHTS

    @property
    def layer(self) -> int | None:
        """The one layer; of a cumulative set the one that was added last; None if together."""
        return self._added_layer(self.layers)

    @property
    def head(self) -> int | None:
        """The one head, likewise."""
        return self._added_layer(self.heads)

    def _added_layer(self, of: tuple[int, ...]) -> int | None:
        if self.set == TOGETHER or not of:
            return None
        return of[0] if self.set == FROM_LAST else of[-1]

    def by_layer(self) -> dict[int, tuple[int, ...]]:
        """By layer, in ascending order, which of its heads; none for other sites."""
        heads: dict[int, tuple[int, ...]] = {layer: () for layer in sorted(set(self.layers))}
        for layer, head in zip(self.layers, self.heads, strict=False):
            heads[layer] = (*heads[layer], head)
        return heads

    @property
    def id(self) -> str:
        """Such as ``transplant:z,layer=3,head=1,t=0.5`` or ``transplant:from_first,layers=0+1``."""
        of = [] if self.exchange == WEIGHTS else [self.exchange]
        of += [] if self.site == "layer" else [self.site]
        if self.set == SINGLE:
            of += [f"layer={layer}" for layer in self.layers]
            of += [f"head={head}" for head in self.heads]
        elif self.heads:
            places = zip(self.layers, self.heads, strict=True)
            of += [self.set, f"heads={'+'.join(f'{layer}.{head}' for layer, head in places)}"]
        else:
            of += [self.set, f"layers={'+'.join(map(str, self.layers))}"]
        if self.t != 1:
            of.append(f"t={self.t:.6g}")
        return f"transplant:{','.join(of)}"


@dataclass(frozen=True)
class TransplantSpec:
    """All that is put from one model into the other."""

    site: str  # what of each layer
    # The layers; of heads the layer of each; none of what is outside of them.
    layers: tuple[int, ...]
    sets: tuple[str, ...]  # how they are put: alone, together, cumulatively
    steps: int = 1  # into how many steps the way from one model's weights to the other's is cut
    # The head or key/value group in each of the layers; empty for other sites.
    heads: tuple[int, ...] = ()
    exchange: tuple[str, ...] = (WEIGHTS,)  # weights, activations, or both
    greedy: int = 0  # how many are also chosen one after the other
    held_out: float = 0.5  # the share of items that these are not chosen by

    @classmethod
    def for_models(
        cls, model: Model, other: Model, site: str, layers: tuple[int, ...], sets: Sequence[str],
        steps: int, named: bool, heads: Sequence[int] | None = None,
        exchange: Sequence[str] = (WEIGHTS,),
    ) -> TransplantSpec:  # fmt: skip
        """The changes of two models."""
        refuse_unknown(site, steps, heads, exchange)
        if site in OF_NO_LAYER:
            if named or tuple(sets) != (SINGLE,):
                raise UserError(
                    f"Site {site!r} is of no layer, but layers or sets of them were named; leave "
                    "them out."
                )
            return cls(site_outside(model, other, site), (), (SINGLE,), steps)
        having = tuple(layer for layer in layers if site in sites_of_layer(model, layer))
        lacking = sorted(set(layers) - set(having))
        if not having or (named and lacking):
            raise UserError(
                f"Layer {lacking[0]} of the model has no part {site!r}: expected one of its parts, "
                f"{', '.join(sites_of_layer(model, lacking[0]))}; name another site, or other "
                "layers."
            )
        chosen, of_layers = tuple(sorted(having)), tuple[int, ...]()
        if site in BY_HEAD:
            chosen, of_layers = zip(*_places(model, site, chosen, heads), strict=True)
        return cls(site, chosen, tuple(sets), steps, of_layers, tuple(exchange))

    def settings(self) -> dict[str, Any]:
        """Settings that make them these changes and no others."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}

    def with_search(self, greedy: int, held_out: float | None) -> TransplantSpec:
        """The same with so many layers chosen one after the other."""
        if not greedy and held_out is not None:
            raise UserError(
                f"Items were to be held out ({held_out}), and no layers chosen by the others: "
                "expected both or neither; give greedy, or leave held_out out."
            )
        if not greedy:
            return self
        if not 1 <= greedy <= len(self.layers) or WEIGHTS not in self.exchange:
            raise UserError(
                f"{greedy} layers were to be chosen one after the other; expected 0 (none) to "
                f"{len(self.layers)}, as many as are exchanged here, and an exchange of weights."
            )
        held_out = self.held_out if held_out is None else held_out
        if not 0 < held_out < 1:
            raise UserError(
                f"The share of items held out is {held_out}; expected more than 0 and less than "
                "1, since layers look too good on the items that they were chosen by."
            )
        return replace(self, greedy=greedy, held_out=held_out)

    def change_of_places(self, places: Sequence[int]) -> Change:
        """The change of some of the layers, as numbers in ``layers``, in their order of choice."""
        heads = tuple(self.heads[i] for i in places) if self.heads else ()
        return Change(GREEDY, self.site, tuple(self.layers[i] for i in places), 1.0, heads)

    def changes(self) -> tuple[Change, ...]:
        """All changes, each way of choosing sets after the other."""
        return tuple(
            Change(name, self.site, self.layers[chosen], step / self.steps, self.heads[chosen], one)
            for one in self.exchange
            for name in self.sets
            for chosen in self._set_slices(name)
            for step in range(1 if one == WEIGHTS else self.steps, self.steps + 1)
        )

    def _set_slices(self, name: str) -> Iterator[slice]:
        n = len(self.layers)
        if self.site in OF_NO_LAYER:
            yield slice(0)
        elif name == SINGLE:
            yield from (slice(i, i + 1) for i in range(n))
        elif name == TOGETHER:
            yield slice(n)
        elif name == FROM_FIRST:
            yield from (slice(i + 1) for i in range(n))
        else:
            yield from (slice(i, n) for i in reversed(range(n)))


def _places(
    model: Model, site: str, layers: Sequence[int], heads: Sequence[int] | None
) -> list[tuple[int, int]]:
    """Layer and head of each that is exchanged."""
    most = max(n_site_heads(model, site, layer) for layer in layers)
    wanted = range(most) if heads is None else sorted(set(heads))
    noun = "key/value groups" if site == KV_GROUP else "heads"
    if not wanted:
        raise UserError(f"No {noun} are left to exchange; name at least one.")
    for head in wanted:
        if not 0 <= head < most:
            raise UserError(f"{head} is out of range: the model has {noun} 0 to {most - 1}.")
    return [
        (layer, head)
        for layer in layers
        for head in wanted
        if head < n_site_heads(model, site, layer)
    ]


def refuse_unknown(
    site: str,
    steps: int,
    heads: Sequence[int] | None = None,
    exchange: Sequence[str] = (WEIGHTS,),
) -> None:
    """Refuse what is put from no model into any."""
    if site not in SITES:
        raise unknown_name("part of a model to transplant", site, SITES)
    if ACTIVATIONS in exchange and site not in WITH_ACTIVATIONS:
        raise UserError(
            f"Activations were asked for at site {site!r}, which has none of its own; expected "
            f"one of {', '.join(WITH_ACTIVATIONS)}, or weights alone."
        )
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(
            f"The number of steps is {steps}; expected 1 (whole layers) to {MOST_STEPS} steps of "
            "interpolation."
        )
    if heads is not None and site not in BY_HEAD:
        raise UserError(
            f"Heads were named for site {site!r}, which has none; use site {', '.join(BY_HEAD)}."
        )
