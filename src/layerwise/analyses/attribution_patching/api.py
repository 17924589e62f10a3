"""Attribution patching: what patching would do, estimated by a gradient for all cells at once.

The metric is taken to be linear in each activation: its change is the gradient times the change
of the activation (Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348). The
estimate never stands alone: some cells are truly patched, and both are compared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Unpack

import torch
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.arguments import Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.patching.api import Patching, indices_by_key
from layerwise.analyses.patching.cells import (
    PatchCell,
    PatchingLayout,
    answer_logits,
    refuse_unknown_places,
)
from layerwise.analyses.patching.pairs import Measured, SolvedPair, cost_of_passes, split_evenly
from layerwise.analyses.patching.tables import DIRECTIONS, order_runs
from layerwise.errors import UserError
from layerwise.ground.argument_types import MemoryBudget, SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, embedding_hooks, hook_name, token_passes
from layerwise.runs.options import PairOptions
from layerwise.runs.setup import prepare
from layerwise.sweep import SweepStats
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Tokens
from layerwise.tasks import PatchingPrompts, Task

from .result import AttributionPatchingResult

# So many tokens are run side by side: what their blocks leave for the backward must be kept.
_TOKENS_AT_ONCE = 512
_PLACE = ("site", "layer", "head", "pos_label", "pos")


def refuse_small_sample(sample: int) -> None:
    """Refuse a sample that says nothing about agreement."""
    if sample < 3:
        raise UserError(
            f"A sample of {sample} cells says nothing about agreement; expected at least 3, so "
            "ask for more."
        )


@check_arguments(refuse_unknown_places, refuse_small_sample)
@exclusive
def attribute_patches(
    model: LoadedModel,
    tasks: Tasks | None = None,
    *,
    sites: SomeNames | None = None,
    direction: Annotated[str, known_name_validator("direction", DIRECTIONS)] = "denoising",
    positions: SomeNames | None = None,
    sample: int = 64,
    pairs: int = 16,
    memory_budget: MemoryBudget | None = None,
    **run: Unpack[PairOptions],
) -> AttributionPatchingResult:
    """Estimate all patches by gradients, and compare a sample with true patches.

    Every patch of a site is estimated by two forwards and one backward a pair. In an
    encoder-decoder the one backward goes through both stacks, so that all their layers are
    estimated at once.

    Args:
        tasks: task names, capabilities, or ``Task`` values whose items have corruptions; if None
            ``kv-words`` and ``facts``, or all suites of the toy language that the model speaks.
        sites: as for ``patch_activations``; the heads (``z``, in an encoder-decoder also
            ``cross_z``) if None.
        direction: ``denoising`` or ``noising``.
        positions: labels, as for ``patch_activations``.
        sample: number of random cells of each task and site that are truly patched, too.

    Returns:
        One row per pair, site, layer, head and position, with the estimate, and where it was
        truly patched the true value; ``agreement()`` compares them.

    Raises:
        UserError: for anything unknown, a sample of less than 3, or a task without pairs.
    """
    setup = prepare(
        model, tasks, ("continuation",), paired=True, memory_budget=memory_budget, **run
    )
    wanted = head_sites(model) if sites is None else sites
    places = None if positions is None else tuple(positions)
    job = AttributionPatching(
        setup, pairs, tuple(wanted), (direction,), positions=places, sample=sample
    )
    return execute_job(job, AttributionPatchingResult, "attribution patching", run)


def head_sites(model: Model) -> tuple[str, ...]:
    """The sites where heads are: ``z``, and ``cross_z`` where there is cross-attention."""
    return tuple(
        site for site in PatchingLayout.for_model(model).sites() if site in ("z", "cross_z")
    )


@dataclass(frozen=True)
class AttributionPatching(Patching):
    """A planned estimate of a patching in one direction, with a sample truly patched."""

    table = "attribution_patching"
    analysis = "attribution patching"
    result = AttributionPatchingResult
    whole_tasks = True  # the same cells are sampled in all pairs of a task

    sample: int = 64  # cells of each task and site

    def settings(self) -> dict[str, Any]:
        """Settings that make it this estimate and no other."""
        return {"sample": self.sample, **super().settings()}

    def cost(self, task: Task, some: Sequence[PatchingPrompts]) -> Cost:
        """Expected cost of the estimates and the true patches."""
        estimates = cost_of_passes(self.setup.model, self._work(some).token_passes)
        (direction,) = self.directions
        sampled = self._sample_cells(task, self._cells(some))
        return estimates + self.cells_cost(task, some, direction, sampled)

    def measure(self, task: Task, pairs: Sequence[SolvedPair]) -> Measured:
        """The rows of a task, and what they cost."""
        (direction,), started = self.directions, time.perf_counter()
        prompts = [pair.prompts for pair in pairs]
        cells = self._cells(prompts)
        changes = self._estimates(pairs, cells)
        estimates = replace(self._work(prompts), seconds=time.perf_counter() - started)
        true, patches = self.patch_pairs(pairs, direction, self._sample_cells(task, cells))
        rows = []
        for pair, cells_of, estimated, patched in zip(pairs, cells, changes, true, strict=True):
            truly = {tuple(row[name] for name in _PLACE): row for row in patched}
            base, aim = pair.diffs(direction)
            for cell, change in zip(cells_of, estimated, strict=True):
                named = cell.row()
                made = truly.get(tuple(named[name] for name in _PLACE), {})
                rows.append({
                    **pair.row(direction), **named, "estimated_diff": base + change,
                    "estimated": change / (aim - base), "patched_diff": made.get("patched_diff"),
                    "recovered": made.get("recovered"),
                })  # fmt: skip
        return rows, estimates + patches

    def _cells(self, some: Sequence[PatchingPrompts]) -> list[list[PatchCell]]:
        """The cells of each pair."""
        (direction,) = self.directions
        return [self.cells(prompts, direction) for prompts in some]

    def _sample_cells(
        self, task: Task, cells: Sequence[Sequence[PatchCell]]
    ) -> list[list[PatchCell]]:
        """The cells of each pair that are truly patched, the same in all pairs of a task."""
        chosen: set[tuple[Any, ...]] = set()
        every = {cell_key(cell) for of_pair in cells for cell in of_pair}
        for site in self.sites:
            of_site = sorted((key for key in every if key[0] == site), key=str)
            rng = stats.generator(self.setup.seed, task.name, site)
            chosen.update(of_site[i] for i in rng.permutation(len(of_site))[: self.sample])
        return [[cell for cell in of_pair if cell_key(cell) in chosen] for of_pair in cells]

    def _work(self, some: Sequence[PatchingPrompts]) -> SweepStats:
        """Two forwards and a backward for each pair; a backward pass counts as one forward."""
        model, (direction,) = self.setup.model, self.directions
        patched = (order_runs(p.clean, p.corrupted, direction)[0] for p in some)
        blocks = 3 * model.cfg.n_layers * len(some)
        passes = 3 * sum(token_passes(model, len(tokens)) for tokens in patched)
        return SweepStats(blocks, blocks, passes, passes)

    def _estimates(
        self, pairs: Sequence[SolvedPair], cells: Sequence[Sequence[PatchCell]]
    ) -> list[list[float]]:
        """The estimated change of each pair's cells; pairs of one shape are run side by side."""
        (direction,) = self.directions
        runs = [pair.runs(direction) for pair in pairs]
        answers = [(pair.prompts.clean_answer, pair.prompts.corrupted_answer) for pair in pairs]
        shapes = [
            (tuple(of_pair), len(tokens), len(source))
            for of_pair, (tokens, source) in zip(cells, runs, strict=True)
        ]
        by_pair: list[list[float]] = [[] for _ in pairs]
        for (places, length, _), alike in indices_by_key(shapes).items():
            for some in split_evenly(alike, max(1, _TOKENS_AT_ONCE // length)):
                changes = estimated_changes(
                    self.setup.model, [runs[i] for i in some], [answers[i] for i in some], places
                )
                for i, of_pair in zip(some, changes, strict=True):
                    by_pair[i] = of_pair
        return by_pair


def cell_key(cell: PatchCell) -> tuple[Any, ...]:
    """Name of a cell in every pair."""
    return cell.site, cell.layer, cell.head, cell.label


def estimated_changes(
    model: Model,
    runs: Sequence[tuple[Tokens, Tokens]],
    answers: Sequence[tuple[int, int]],
    cells: Sequence[PatchCell],
) -> list[list[float]]:
    """The gradient of the logit difference times the change of each cell's activation, in nats."""
    names = sorted({hook_name(model, cell.layer, cell.site) for cell in cells})
    there = _record_hooks(model, [source for _, source in runs], names)[1]
    with torch.enable_grad():
        logits, here = _record_hooks(model, [tokens for tokens, _ in runs], names)
        first, second = torch.tensor(answers, device=logits.device).T
        rows = torch.arange(len(runs), device=logits.device)
        # no row depends on another, so that the sum has each row's own gradient
        difference = (logits[rows, first] - logits[rows, second]).sum()
        slopes = torch.autograd.grad(difference, [here[name] for name in names])
    runs_at: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {
        name: (slope, here[name].detach(), there[name].detach())
        for name, slope in zip(names, slopes, strict=True)
    }
    changes = [_change(cell, *runs_at[hook_name(model, cell.layer, cell.site)]) for cell in cells]
    return torch.stack(changes, dim=1).tolist()


def _record_hooks(
    model: Model, prompts: Sequence[Tokens], names: Sequence[str]
) -> tuple[Float[torch.Tensor, "row d_vocab"], dict[str, torch.Tensor]]:
    """The logits where answers begin, and the runs' activations at some hooks."""
    kept: dict[str, torch.Tensor] = {}

    def start(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return tensor.detach().requires_grad_(torch.is_grad_enabled())

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    hooks = [*((name, start) for name in embedding_hooks(model)), *((name, keep) for name in names)]
    return answer_logits(model, prompts, hooks), kept


def _change(
    cell: PatchCell, slope: torch.Tensor, here: torch.Tensor, there: torch.Tensor
) -> Float[torch.Tensor, " row"]:
    """The change by one cell in each row, from gradients and activations at its hook."""
    total = torch.zeros(len(slope), dtype=torch.float64, device=slope.device)
    for pos, source in cell.places:
        at, of = ((slice(None), *cell.index(place)) for place in (pos, source))
        total += (slope[at] * (there[of] - here[at])).flatten(1).sum(dim=1)
    return total
