"""Planned interactions: an ablation of sets of layers, its records as the table of these sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any

from layerwise import stats
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec, refuse_unknown_site
from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model, n_layer_heads
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup
from layerwise.stats.effects import CONTROLS
from layerwise.storage.parquet import conform, frame
from layerwise.sweep import Intervention, together
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .result import InteractionsResult
from .tables import Player, Players

MOST_SETS, MOST_PERMUTATIONS = 5000, 10_000


def refuse_unknown_skip(site: str) -> None:
    """Refuse a site that cannot be skipped in any model."""
    refuse_unknown_site("skip", site)


def refuse_sets(order: int, permutations: int) -> None:
    """Refuse sets that are none of any model."""
    if order not in (1, 2):
        raise UserError(
            f"The order is {order}; expected 2 (each alone and all pairs), or 1 (each alone, with "
            "permutations)."
        )
    if order == 1 and not permutations:
        raise UserError(
            "Nothing would be removed together: expected order 2, or a number of permutations."
        )
    if not 0 <= permutations <= MOST_PERMUTATIONS:
        raise UserError(
            f"The number of permutations is {permutations}; expected 0 (none) to "
            f"{MOST_PERMUTATIONS}."
        )


@dataclass(frozen=True)
class SetsSpec(AblationSpec):
    """Sets of layers or heads to be skipped."""

    players: Players = ()  # what is removed as one, by layer and head
    order: int = 2  # 1 removes each alone, 2 also all pairs
    # How many orders of all players are drawn, whose beginnings are removed; 0 for none.
    permutations: int = 0
    seed: int = 0  # decides these orders

    @classmethod
    def from_layers(
        cls, model: Model, site: str, layers: tuple[int, ...], heads: Sequence[int] | None, *,
        order: int, permutations: int, seed: int,
    ) -> SetsSpec:  # fmt: skip
        """The sets that are made of some layers or heads of a model."""
        refuse_sets(order, permutations)
        basis = AblationSpec.for_model(model, "skip", site, layers, heads=heads)
        players = tuple(
            Player(layer, head)
            for layer, head in product(sorted(basis.layers), sorted(basis.heads or ()) or (None,))
            if head is None or head < n_layer_heads(model, layer)
        )
        spec = cls(
            basis.kind, basis.site, basis.layers, basis.heads,
            players=players, order=order, permutations=permutations, seed=seed,
        )  # fmt: skip
        n, noun = len(players), "layers" if basis.heads is None else "heads"
        if n < 2:
            raise UserError(
                f"Only one of the {noun} would be removed; expected at least two, to be removed "
                "alone and together: name more."
            )
        most = n + (n * (n - 1) // 2) * (order == 2) + permutations * n
        if most > MOST_SETS and len(spec.sets) > MOST_SETS:
            raise UserError(
                f"Of {n} {noun} {len(spec.sets):,} sets would be removed; expected at most "
                f"{MOST_SETS:,}: name fewer {noun}, or draw fewer permutations."
            )
        return spec

    def settings(self) -> dict[str, Any]:
        """Settings that make them these sets and no others."""
        more = {"permutations": self.permutations} if self.permutations else {}
        return super().settings() | {"order": self.order, **more}

    @cached_property
    def orders(self) -> tuple[Players, ...]:
        """The permutations of all players that are drawn."""
        draws = stats.generator(self.seed, "permutations of players")
        n = len(self.players)
        return tuple(
            tuple(self.players[i] for i in draws.permutation(n).tolist())
            for _ in range(self.permutations)
        )

    @cached_property
    def sets(self) -> tuple[Players, ...]:
        """Sets that are removed together: each player, all pairs, beginnings of drawn orders."""
        pairs = combinations(self.players, 2) if self.order == 2 else ()
        begun = (tuple(sorted(o[: i + 1])) for o in self.orders for i in range(len(o)))
        return tuple(dict.fromkeys([*((player,) for player in self.players), *pairs, *begun]))

    def _make_changes(self, make: Callable[..., Intervention], model: Model) -> list[Intervention]:
        alone = {p: self._make_change(make, p.layer, p.head, model) for p in self.players}
        return [together([alone[player] for player in removed]) for removed in self.sets]


@dataclass(frozen=True)
class Interactions:
    """Planned interactions; the pieces are those of an ablation."""

    setup: Setup
    spec: SetsSpec  # what is removed
    method: str = "engine"  # ``engine`` or ``reference``

    def __post_init__(self) -> None:
        _ = self.ablation  # which refuses bad input before any work is done

    @cached_property
    def ablation(self) -> Ablation:
        """The ablation that measures the sets, where the intact model has signal."""
        return Ablation(
            self.setup, (self.spec,), self.method, only_with_signal=True, analysis="interactions"
        )

    def settings(self) -> dict[str, Any]:
        """Settings that make it this run and no other."""
        return self.ablation.settings()

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> InteractionsResult:
        """Make the pieces that are missing; join them, with the layers and heads of each set."""
        measured = self.ablation.run(parts, settings, progress)
        records, changes = measured.records, self.spec.same_cost_changes(self.setup.model)
        removed: dict[str, Players] = {"intact": ()} | {
            change.id: players for change, players in zip(changes, self.spec.sets, strict=True)
        }
        of_row = [
            removed[name] if kind not in CONTROLS else ()
            for name, kind in zip(records["intervention"], records["kind"], strict=True)
        ]
        heads = [[player.head for player in players] for players in of_row]
        table = records.assign(
            site=self.spec.site,
            layers=[[player.layer for player in players] for players in of_row],
            heads=heads if self.spec.heads is not None else None,
        )
        orders = [
            {"permutation": number, "place": place, "layer": player.layer, "head": player.head}
            for number, order in enumerate(self.spec.orders)
            for place, player in enumerate(order)
        ]
        orders = frame("interaction_orders", orders)
        return InteractionsResult(conform("interactions", table), orders, measured.facts)

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, at most: with signal in all."""
        return self.ablation.expected_cost(task, *protocols)
