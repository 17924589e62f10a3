"""Activation patching: at which layer, position and head the answer is carried.

One run is made with one activation taken from another run: the corrupted prompt's with the clean
prompt's (denoising), or the other way round (noising). What is measured is the share of the way
between the two that this goes (Meng et al. 2022, arXiv:2202.05262; Heimersheim and Nanda 2024,
arXiv:2404.15255).
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, TypeVar, Unpack

from layerwise.analyses.arguments import Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.errors import UserError
from layerwise.ground.argument_types import MemoryBudget, SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import token_passes
from layerwise.runs.options import PairOptions
from layerwise.runs.setup import prepare
from layerwise.sweep import LogLikelihood, SweepStats, intact
from layerwise.sweep.changes.edits import SITES as ENGINE_SITES
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import PatchingPrompts, Task

from .cells import (
    PATTERNS,
    PatchCell,
    PatchingLayout,
    hooked_logprobs,
    intact_logprobs,
    refuse_unknown_places,
)
from .pairs import Measured, PairJob, SolvedPair, answer_requests, scored_logprob
from .result import PatchingResult
from .tables import DENOISING, DIRECTIONS, order_runs

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Patching(PairJob):
    """A planned patching."""

    table = "patching"
    analysis = "activation patching"
    result = PatchingResult

    sites: tuple[str, ...]
    directions: tuple[str, ...] = (DENOISING,)
    positions: tuple[str, ...] | None = None  # labels; the sites' own if None
    kl: bool = False

    def __post_init__(self) -> None:
        layout = self.layout()
        labels = layout.labels(layout.sites())
        refuse_unknown_places(self.sites, self.positions, layout.sites(), labels)
        self._refuse_missing_sites()
        for site in self.sites:
            known = layout.labels([site])
            if self.positions is not None and not set(self.positions) & set(known):
                raise UserError(
                    f"Site {site} is not at position {', '.join(map(repr, self.positions))}: "
                    f"expected one of {', '.join(known)}; name one of these, or leave the site out."
                )
        super().__post_init__()

    def layout(self) -> PatchingLayout:
        """Sites and positions of the model."""
        return PatchingLayout.for_model(self.setup.model)

    def _refuse_missing_sites(self) -> None:
        cfg = self.setup.model.cfg
        if "mlp_out" in self.sites and cfg.attn_only:
            raise UserError("The model's blocks have no MLP; choose site resid_pre or attn_out.")
        if "resid_mid" in self.sites and (cfg.attn_only or cfg.parallel_attn_mlp):
            raise UserError(
                "The model's blocks have no residual stream between attention and MLP; "
                "choose site resid_pre, attn_out or resid_post."
            )
        if self.align and set(PATTERNS) & set(self.sites):
            raise UserError(
                "Attention patterns of prompts of unequal length have different keys; "
                "expected other sites when pairs are aligned, so leave pattern or align out."
            )

    def settings(self) -> dict[str, Any]:
        """Settings that make it this patching and no other."""
        return {
            "sites": list(self.sites),
            "pairs": self.pairs,
            "directions": list(self.directions),
            "positions": None if self.positions is None else list(self.positions),
            "kl": self.kl,
            "align": self.align,
        }

    def cost(self, task: Task, some: Sequence[PatchingPrompts]) -> Cost:
        """Expected cost of patching all cells of some pairs, in all directions."""
        every = ((d, [self.cells(prompts, d) for prompts in some]) for d in self.directions)
        return sum((self.cells_cost(task, some, *given) for given in every), start=Cost())

    def cells_cost(
        self,
        task: Task,
        some: Sequence[PatchingPrompts],
        direction: str,
        cells: Sequence[Sequence[PatchCell]],
    ) -> Cost:
        """Expected cost of patching some cells of each pair."""
        total = Cost()
        for swept, requests, _ in self._engine_sweeps(some, direction, cells):
            total += self.setup.cost(task, [cell.intervention() for cell in swept], requests)
        for prompts, own_cells in zip(some, cells, strict=True):
            if n := sum(not self._by_engine(cell) for cell in own_cells):
                tokens, _ = order_runs(prompts.clean, prompts.corrupted, direction)
                passes = token_passes(self.setup.model, len(tokens)) * n
                one = self.setup.cost(task, [intact()], answer_requests(prompts, tokens)[:1])
                total += Cost(
                    requests=2, interventions=n, prompt_token_passes=passes,
                    brute_force_token_passes=float(passes), rows=n, prompt_flop=n * one.flop,
                )  # fmt: skip
        return total

    def cells(self, prompts: PatchingPrompts, direction: str) -> list[PatchCell]:
        """The cells of a pair."""
        layout = self.layout()
        return [
            cell
            for site in self.sites
            for cell in layout.cells(prompts, direction, site, self.positions)
        ]

    def _by_engine(self, cell: PatchCell) -> bool:
        """True if the engine patches a cell; if not, plain hooks do."""
        return not self.kl and cell.site in ENGINE_SITES

    def measure(self, task: Task, pairs: Sequence[SolvedPair]) -> Measured:
        """The rows of some pairs, one after the other, and what they cost."""
        by_direction, stats = [], SweepStats()
        for direction in self.directions:
            cells = [self.cells(pair.prompts, direction) for pair in pairs]
            patched_rows, cost = self.patch_pairs(pairs, direction, cells)
            by_direction.append(patched_rows)
            stats = stats + cost
        of_pairs = (chain(*of_pair) for of_pair in zip(*by_direction, strict=True))
        return list(chain.from_iterable(of_pairs)), stats

    def patch_pairs(
        self, pairs: Sequence[SolvedPair], direction: str, cells: Sequence[Sequence[PatchCell]]
    ) -> tuple[list[list[dict[str, Any]]], SweepStats]:
        """For each pair a row for each of its cells, and the cost of all."""
        stats, rows = SweepStats(), [list[dict[str, Any]]() for _ in pairs]
        prompts = [pair.prompts for pair in pairs]
        for swept, requests, alike in self._engine_sweeps(prompts, direction, cells):
            sweep = self.setup.sweep([cell.intervention() for cell in swept], requests)
            stats = stats + sweep.stats
            for cell, outcomes in zip(swept, sweep.outcomes, strict=True):
                values = [scored_logprob(outcome) for outcome in outcomes]
                for i, clean, corrupted in zip(alike, values[::2], values[1::2], strict=True):
                    rows[i].append(_row(pairs[i], direction, cell, clean, corrupted))
        for pair, own_cells, of_pair in zip(pairs, cells, rows, strict=True):
            if hooked := [cell for cell in own_cells if not self._by_engine(cell)]:
                hooked_rows, cost = self._patch_with_hooks(pair, direction, hooked)
                of_pair += hooked_rows
                stats = stats + cost
        return rows, stats

    def _engine_sweeps(
        self,
        prompts: Sequence[PatchingPrompts],
        direction: str,
        cells: Sequence[Sequence[PatchCell]],
    ) -> Iterator[tuple[tuple[PatchCell, ...], list[LogLikelihood], list[int]]]:
        """Cells that the engine patches, requests, and which pairs: those of the same cells."""
        swept = [tuple(filter(self._by_engine, own_cells)) for own_cells in cells]
        for patched, alike in indices_by_key(swept).items():
            if patched:
                runs = [(p, order_runs(p.clean, p.corrupted, direction))
                        for p in (prompts[i] for i in alike)]  # fmt: skip
                of_pairs = (answer_requests(p, tokens, source) for p, (tokens, source) in runs)
                yield patched, list(chain.from_iterable(of_pairs)), alike

    def _patch_with_hooks(
        self, pair: SolvedPair, direction: str, cells: Sequence[PatchCell]
    ) -> tuple[list[dict[str, Any]], SweepStats]:
        """The rows of runs patched with plain hooks, and their cost."""
        model, (tokens, source) = self.setup.model, pair.runs(direction)
        started = time.perf_counter()
        patched = hooked_logprobs(model, tokens, source, cells)
        answers = [pair.prompts.clean_answer, pair.prompts.corrupted_answer]
        values: list[list[float]] = patched[:, answers].tolist()
        unpatched, divergences = None, [None] * len(cells)
        if self.kl:
            wanted = intact_logprobs(model, source)
            divergences = _kl(wanted, patched).tolist()
            unpatched = float(_kl(wanted, intact_logprobs(model, tokens)))
        n_layers, passes = model.cfg.n_layers, token_passes(model, len(tokens)) * len(cells)
        seconds = time.perf_counter() - started
        stats = SweepStats(n_layers * len(cells), n_layers * len(cells), passes, passes, seconds)
        rows = [
            _row(pair, direction, cell, clean, corrupted, unpatched, kl)
            for cell, (clean, corrupted), kl in zip(cells, values, divergences, strict=True)
        ]
        return rows, stats


def _kl(wanted: Any, given: Any) -> Any:
    """KL divergence from a distribution to others, in nats, from log-probabilities."""
    # rounding may leave -1e-17 where the two are the same
    return (wanted.exp() * (wanted - given)).sum(dim=-1).clamp(min=0)


def indices_by_key(keys: Iterable[_Key]) -> dict[_Key, list[int]]:
    """The numbers of those that have the same key, by key, in the order of their first."""
    places: dict[_Key, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    return places


def _row(
    pair: SolvedPair,
    direction: str,
    cell: PatchCell,
    clean: float,
    corrupted: float,
    unpatched_kl: float | None = None,
    kl: float | None = None,
) -> dict[str, Any]:
    """A row of the table, of both answers' log-probabilities under a patch."""
    base, aim = pair.diffs(direction)
    return {
        **pair.row(direction),
        **cell.row(),
        "source_pos": cell.place[1],
        "patched_diff": clean - corrupted,
        "recovered": (clean - corrupted - base) / (aim - base),
        "clean_logprob": pair.clean_logprob,
        "corrupted_logprob": pair.corrupted_logprob,
        "patched_logprob": clean,
        "unpatched_kl": unpatched_kl,
        "patched_kl": kl,
    }


@check_arguments(refuse_unknown_places)
@exclusive
def patch_activations(
    model: LoadedModel,
    tasks: Tasks | None = None,
    *,
    sites: SomeNames = ("resid_pre",),
    directions: Annotated[SomeNames, known_name_validator("direction", DIRECTIONS)] = (
        "denoising",
    ),
    positions: SomeNames | None = None,
    kl: bool = False,
    align: bool = False,
    pairs: int = 16,
    memory_budget: MemoryBudget | None = None,
    **run: Unpack[PairOptions],
) -> PatchingResult:
    """Patch each layer and position, or head, between a clean and a corrupted prompt.

    The pairs come from the tasks' items (another key, another subject); those are used of which
    the model prefers the right answer in both prompts, since elsewhere there is nothing to
    carry, and whose prompts have the same number of tokens or are to be aligned.

    In an encoder-decoder the encoder is patched at the prompt's positions, the decoder at what it
    begins with; ``answer`` is the position where the answer's first token is predicted.

    The engine patches streams, outputs of sublayers and of heads. Attention patterns, keys and
    values, and KL divergences take one plain forward per patch.

    Args:
        tasks: task names, capabilities, or ``Task`` values whose items have corruptions; if None
            ``kv-words`` and ``facts``, or all suites of the toy language that the model speaks.
        sites: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``; by head
            ``z`` (output before the output projection) and ``pattern`` (attention after the
            softmax). Decoders of encoder-decoders also have ``cross_attn_out``,
            ``resid_mid_cross``, ``cross_z``, ``cross_pattern``, and ``cross_k`` and ``cross_v``
            (keys and values of the input, at the prompt's positions).
        directions: ``denoising``: the corrupted run gets the clean one's activation;
            ``noising``: the clean run gets the corrupted one's.
        positions: labels: ``first changed``, ``middle changed``, ``last changed``, ``next``,
            ``further``, ``last``, or ``all`` from the first changed token on. Encoder-decoders also
            have ``before``, and in the decoder ``answer`` and ``start``; ``docs/patching.md``
            defines them. If None, every label but ``all``; for heads ``last changed``, ``last``,
            ``answer`` and ``all``.
        kl: also measure the KL divergence of the next token's distribution.
        align: use pairs of unequal length, too. The first changed tokens match, the last ones
            match, and what follows matches by its distance from the end.

    Returns:
        One row per pair, direction, site, layer, head and position.

    Raises:
        UserError: for anything unknown, or a task that has no pair that can be patched.
    """
    setup = prepare(
        model, tasks, ("continuation",), paired=True, memory_budget=memory_budget, **run
    )
    job = Patching(
        setup, pairs, tuple(sites), directions=tuple(directions),
        positions=None if positions is None else tuple(positions), kl=kl, align=align,
    )  # fmt: skip
    return execute_job(job, PatchingResult, "activation patching", run)
