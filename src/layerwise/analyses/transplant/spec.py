"""What is put from one model into another: parts of layers, alone, together or cumulatively."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from layerwise.errors import UserError, unknown_name
from layerwise.models.kinds import Model, blocks_of

from .names import FROM_FIRST, FROM_LAST, SINGLE, SITES, TOGETHER
from .weights import parts_of_block

MOST_STEPS = 100


@dataclass(frozen=True)
class Change:
    """One set of layers, or of their parts, that is put from one model into the other.

    Attributes:
        set: how the layers were chosen.
        site: what of each layer: ``layer``, ``attn_out``, ``mlp_out`` or ``cross_attn_out``.
        layers: the layers, in ascending order.
        t: weights become ``host + t (donor - host)``; 1 is the donor's layer.
    """

    set: str
    site: str
    layers: tuple[int, ...]
    t: float = 1.0

    @property
    def layer(self) -> int | None:
        """The one layer; of a cumulative set the one that was added last; None if together."""
        if self.set == TOGETHER:
            return None
        return self.layers[0] if self.set == FROM_LAST else self.layers[-1]

    @property
    def id(self) -> str:
        """E.g. ``transplant:layer=3``, ``transplant:attn_out,from_first,layers=0+1,t=0.5``."""
        of = [] if self.site == "layer" else [self.site]
        if self.set == SINGLE:
            of.append(f"layer={self.layers[0]}")
        else:
            of += [self.set, f"layers={'+'.join(map(str, self.layers))}"]
        if self.t != 1:
            of.append(f"t={self.t:.6g}")
        return f"transplant:{','.join(of)}"


@dataclass(frozen=True)
class TransplantSpec:
    """All that is put from one model into the other.

    Attributes:
        site: what of each layer.
        layers: the layers.
        sets: how they are put: alone, together, cumulatively.
        steps: into how many steps the way from one model's weights to the other's is cut.
    """

    site: str
    layers: tuple[int, ...]
    sets: tuple[str, ...]
    steps: int = 1

    @classmethod
    def of(
        cls, model: Model, site: str, layers: tuple[int, ...], sets: Sequence[str], steps: int,
        named: bool,
    ) -> TransplantSpec:  # fmt: skip
        """The changes of a model.

        Args:
            model: either model.
            site: what of each layer.
            layers: the layers.
            sets: how they are put.
            steps: steps of interpolation.
            named: whether the layers were asked for by name, so that none may be left out.

        Raises:
            UserError: if a layer has no such part.
        """
        refuse_unknown(site, steps)
        blocks = blocks_of(model)
        having = tuple(layer for layer in layers if parts_of_block(model, blocks[layer]).get(site))
        lacking = sorted(set(layers) - set(having))
        if not having or (named and lacking):
            raise UserError(
                f"Layer {lacking[0]} of the model has no part {site!r}: expected one of its parts, "
                f"{', '.join(parts_of_block(model, blocks[lacking[0]]))}; name another site, or "
                "other layers."
            )
        return cls(site, tuple(sorted(having)), tuple(sets), steps)

    def settings(self) -> dict[str, Any]:
        """What makes them these changes and no others."""
        return {
            "site": self.site,
            "layers": list(self.layers),
            "sets": list(self.sets),
            "steps": self.steps,
        }

    def changes(self) -> tuple[Change, ...]:
        """All changes, each way of choosing sets after the other."""
        return tuple(
            Change(name, self.site, layers, step / self.steps)
            for name in self.sets
            for layers in self._chosen(name)
            for step in range(1, self.steps + 1)
        )

    def _chosen(self, name: str) -> Iterator[tuple[int, ...]]:
        n = len(self.layers)
        if name == SINGLE:
            yield from ((layer,) for layer in self.layers)
        elif name == TOGETHER:
            yield self.layers
        elif name == FROM_FIRST:
            yield from (self.layers[: i + 1] for i in range(n))
        else:
            yield from (self.layers[i:] for i in reversed(range(n)))


def refuse_unknown(site: str, steps: int) -> None:
    """Refuse what is put from no model into any.

    Raises:
        UserError: if the part is unknown or the number of steps out of range.
    """
    if site not in SITES:
        raise unknown_name("part of a layer to transplant", site, SITES)
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(
            f"The number of steps is {steps}; expected 1 (whole layers) to {MOST_STEPS} steps of "
            "interpolation."
        )
