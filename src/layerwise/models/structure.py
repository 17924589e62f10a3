"""Which modules and weights a model in memory consists of, and a fingerprint that is quickly had.

What a module computes is not known here; see ``altered``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from layerwise.models.kinds import Model, original_of, parts_of_original
from layerwise.models.offload import OnDisk

_ATTRIBUTE = "layerwise_structure"
_HOOKS = itemgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
_FORWARD, _PRE = itemgetter("_forward_hooks"), itemgetter("_forward_pre_hooks")
_CHILDREN, _PARAMETERS = itemgetter("_modules"), itemgetter("_parameters")
_CHANGES = attrgetter("_version")
_PLAIN = frozenset({bool, int, float, str, torch.dtype, type(None)})


@dataclass(frozen=True)
class Version:
    """A fingerprint of what the numbers that a model gives depend on.

    Weights are told by their memory and by torch's count of changes in place, which does not
    count those made through ``.data``.

    Attributes:
        modules: hash of the modules and of the functions of their classes.
        weights: which tensors are the parameters, their memory and their changes.
        settings: the plain values of ``cfg``.
    """

    modules: int
    weights: tuple[tuple[int, ...], ...]
    settings: dict[str, Any]


class Structure:
    """The modules that a model runs.

    Kept on the model, so that the next look at a thousand modules takes a third of a millisecond.
    A copy of the model begins with an empty one.

    Attributes:
        modules: every module that the model runs, each once, the model itself first.
        hooked: whether a module has hooks of torch.
        dropouts: those that drop activations in training mode.
        looked_at: whether they were found to be what their classes say (see ``altered``).
        sites: the hook points that were found to be those of the layers.
    """

    def __init__(self, model: Model | None = None) -> None:
        self.modules = [] if model is None else modules_run(model)
        self._fields = [module.__dict__ for module in self.modules]
        self._hooks = list(chain.from_iterable(map(_HOOKS, self._fields)))
        self._parents = [held for held in map(_CHILDREN, self._fields) if held]
        self._owners = [held for held in map(_PARAMETERS, self._fields) if held]
        self._counted = [weight for weight in self._weights() if _has_count(weight)]
        self._shape = self._shape_now()
        self.dropouts = [module for module in self.modules if isinstance(module, _DropoutNd)]
        self.hooked, self.looked_at = any(self._hooks), False
        self.sites: dict[str, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        return Structure()

    def __reduce__(self) -> tuple[type[Structure], tuple[()]]:
        return Structure, ()

    @cached_property
    def classes(self) -> dict[type, Any]:
        """The classes of the modules, with the functions that they had."""
        kinds: list[Any] = list(dict.fromkeys(map(type, self.modules)))
        return {kind: kind.forward for kind in kinds}

    @property
    def current(self) -> bool:
        """Whether these are still the modules, with the same fields and classes, and no hooks."""
        self.hooked = any(self._hooks)
        known = all(kind.forward is forward for kind, forward in self.classes.items())
        same = known and not self.hooked and self._shape == self._shape_now()
        return bool(self.modules) and same

    def first_hooked(self) -> nn.Module:
        """A module that has hooks of torch; there must be one."""
        return next(module for module in self.modules if any(_HOOKS(module.__dict__)))

    def _shape_now(self) -> tuple[list[Any], ...]:
        fields, children = self._fields, chain.from_iterable(map(dict.values, self._parents))
        return (
            list(map(type, self.modules)),
            list(map(len, fields)),
            list(map(id, children)),
            list(map(id, map(_FORWARD, fields))),
            list(map(id, map(_PRE, fields))),
            list(map(id, self._weights())),
        )

    def _weights(self) -> Iterator[Any]:
        return filter(_is_there, chain.from_iterable(map(dict.values, self._owners)))

    @cached_property
    def _hash(self) -> int:
        return hash((*map(id, self.modules), *self._shape[0], *self.classes.items()))

    def version(self, cfg: Any) -> Version:
        """The fingerprint now, given the model's settings."""
        weights = (
            tuple(self._shape[-1]),
            tuple(map(torch.Tensor.data_ptr, self._counted)),
            tuple(map(_CHANGES, self._counted)),
        )
        settings = {key: value for key, value in vars(cfg).items() if type(value) in _PLAIN}
        return Version(self._hash, weights, settings)


def structure_of(model: Model) -> Structure:
    """The structure of a model as it is now."""
    kept = model.__dict__.get(_ATTRIBUTE)
    if isinstance(kept, Structure) and kept.current:
        return kept
    model.__dict__[_ATTRIBUTE] = None  # so that its place is counted among the fields
    found = model.__dict__[_ATTRIBUTE] = Structure(model)
    return found


def version_of(model: Model) -> Version:
    """The fingerprint of a model as it is now."""
    return structure_of(model).version(model.cfg)


def modules_run(model: Model) -> list[nn.Module]:
    """Every module that ``model(tokens)`` runs, each once, the model itself first."""
    # Of an original that it runs parts of, not the modules that hold them.
    starts: list[Any] = [*parts_of_original(model), model]
    seen, found = {id(original_of(model))}, []
    while starts:
        module = starts.pop()
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            found.append(module)
            starts.extend(module.__dict__["_modules"].values())
    return found


def _is_there(weight: Any) -> bool:
    return weight is not None


def _has_count(weight: torch.Tensor) -> bool:
    """Whether torch counts the changes of a parameter; one on disk has no memory either."""
    return not isinstance(weight, OnDisk) and not weight.is_inference()
