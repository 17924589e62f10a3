"""The quantities that runs are compared by, in the sample and in resamples of the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from layerwise.analyses.emergence.api import collect_curves
from layerwise.analyses.emergence.protocol_interaction import (
    THIRDS,
    GroupCosts,
    loss_profile,
    mean_draws,
)
from layerwise.analyses.emergence.summaries import CRITICAL, Summary, capability_summaries
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER, layer_axes
from layerwise.stats.depth.depth_inference import CENTRE, Axis
from layerwise.stats.depth.item_curves import ItemCurves
from layerwise.stats.depth.layer_curves import (
    ABLATION,
    ExcludedTask,
    MethodCurve,
    Sampling,
    restrict_to_stack,
)
from layerwise.stats.effects import Cell, cells, layer_skips
from layerwise.stats.families.estimate import Ends
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.same_share import TaskLosses
from layerwise.stats.share_tests.share_bounds import ShareBounds, one_answer_change, wide_enough
from layerwise.stats.signals.signal import signals

from .runs import SavedRun, exclusion_row

ACCURACY, DEPTH, LOSS, SIZE = "accuracy", "depth", "share lost", "critical set"
FAMILIES = (ACCURACY, DEPTH, LOSS, SIZE)
# Given for each run and not compared: noise draws centres of mass to the middle, and how many
# layers have a significant loss depends on how much a model has to lose.
COMPARED, DESCRIBED = (ACCURACY, DEPTH, LOSS), (CENTRE, CRITICAL)


class Key(NamedTuple):
    """Key of a comparison: equal keys of two runs are about the same thing."""

    family: str
    capability: str
    protocol: str
    method: str
    measure: str
    axis: str
    tasks: tuple[str, ...]


class Quantity(NamedTuple):
    """One quantity of one run."""

    # Its value in the sample (row 0) and in resamples of the items.
    draws: Float[np.ndarray, " draws"]
    n_items: int
    clusters: Clusters  # which of them ask for the same thing
    right: Bool[np.ndarray, " items"] | None = None  # of an accuracy, the answers; otherwise None
    loss: Loss | None = None  # of a share lost, where it comes from; otherwise None
    # Of a depth, the curves of each task and how layers become depths; otherwise empty and None.
    curves: tuple[ItemCurves, ...] = ()
    axis: Axis | None = None


class Loss(NamedTuple):
    """The mean share of the above-floor accuracy that a layer of a third costs."""

    profiles: tuple[GroupCosts, ...]  # of each task
    column: int  # of the third in these
    n_layers: int  # in the third

    @property
    def parts(self) -> Float[np.ndarray, " items"]:
        """Contribution of each item to the mean over tasks of the mean over items."""
        n_tasks, column = len(self.profiles), self.column
        return np.concatenate(
            [p.pseudo[:, column] / (len(p.pseudo) * n_tasks) for p in self.profiles]
        )

    @property
    def task_losses(self) -> list[TaskLosses]:
        """Losses of each task's items, and what they have to lose."""
        return [TaskLosses(p.values[:, 1 + self.column], p.values[:, 0]) for p in self.profiles]

    def share_bounds(self, ends: Ends) -> ShareBounds:
        """Bounds of resamples, no narrower than unseen items allow."""
        scales = [profile.scale for profile in self.profiles]
        shares = np.stack([p.pseudo[:, [self.column]].mean(axis=0) for p in self.profiles])
        low, high = (
            np.where(np.isfinite(end), end, np.nan) for end in wide_enough(ends, shares, scales)
        )
        return ShareBounds(low, high, one_answer_change(scales, self.n_layers))


@dataclass(frozen=True)
class PreparedRun:
    """A run with what its methods say about each task."""

    run: SavedRun
    sampling: Sampling  # the resamples, the same for all runs, and this run's number of layers
    evidence: tuple[MethodCurve, ...]  # what each method says about each task
    silent: tuple[ExcludedTask, ...]  # what was left out of the evidence, and why
    cells: dict[tuple[str, str], Cell]  # its ablation records by task and protocol

    @property
    def axes(self) -> dict[str, range]:
        """The layers of the whole axis of computation and, of an encoder-decoder, of each stack."""
        model = self.run.facts.model
        alone = {ENCODER: range(0), DECODER: range(model.n_layers)}  # a decoder has no other stack
        return alone | layer_axes(model.n_encoder_layers, model.n_layers)


def prepare_run(run: SavedRun, seed: int, n_resamples: int) -> PreparedRun:
    """A run's evidence, from the same resamples of items in all runs."""
    sampling = Sampling(seed, n_resamples, run.facts.model.n_layers)
    evidence = list(collect_curves(run.results, sampling))
    skip_cells = () if run.ablation is None else cells(layer_skips(run.ablation.records))
    return PreparedRun(
        run,
        sampling,
        tuple(e for e in evidence if isinstance(e, MethodCurve)),
        tuple(e for e in evidence if isinstance(e, ExcludedTask)),
        {(cell.task, cell.protocol): cell for cell in skip_cells},
    )


def unsaid(run: PreparedRun, each: ExcludedTask) -> dict[str, Any]:
    """A row on what a run's own evidence leaves out."""
    task = {} if each.task is None else {"task": each.task}
    where = {"capability": each.capability, "protocol": each.protocol, "method": each.method}
    return exclusion_row(run.run.name, each.reason, **where, **task)


def quantities(
    runs: Sequence[PreparedRun], note: Callable[[dict[str, Any]], object] = lambda row: None
) -> dict[Key, list[Quantity]]:
    """All that can be said of every one of the runs, on tasks and items that they share."""
    by_key = dict(_accuracies(runs, note))
    for axis in _common_axes(runs):
        by_key |= dict(_depths(runs, axis, note if axis == COMPUTATION else lambda row: None))
    return by_key | dict(_losses(runs, note))


def _common_axes(runs: Sequence[PreparedRun]) -> list[str]:
    """The axes that every run has; of decoders alone, that of computation."""
    if not any(run.run.facts.model.n_encoder_layers for run in runs):
        return [COMPUTATION]
    stacks = (name for name in (ENCODER, DECODER) if all(run.axes[name] for run in runs))
    return [COMPUTATION, *stacks]


def _accuracies(
    runs: Sequence[PreparedRun], note: Callable
) -> Iterator[tuple[Key, list[Quantity]]]:
    signal = [signals(list(run.cells.values()), run.run.facts.chance) for run in runs]
    for task, protocol in _intersection([set(run.cells) for run in runs]):
        cells_of = [run.cells[task, protocol] for run in runs]
        capability, reason = cells_of[0].capability, ""
        if len({cell.items for cell in cells_of}) > 1:
            reason = "the items with an answer differ"
        elif not any(of_run[task, protocol] for of_run in signal):
            reason = "no signal: no intact model is better than blind"
        if reason:
            what = {"task": task, "protocol": protocol, "capability": capability}
            note(exclusion_row(_names(runs), reason, **what))
            continue
        of_runs = []
        for run, cell in zip(runs, cells_of, strict=True):
            right = cell.intact[:, None].astype(float)
            draws = run.sampling.means(task, right, cell.clusters)[:, 0]
            of_runs.append(Quantity(draws, len(right), cell.clusters, cell.intact))
        key = ACCURACY, capability, protocol, "intact model", ACCURACY, COMPUTATION, (task,)
        yield Key(*key), of_runs


def _depths(
    runs: Sequence[PreparedRun], axis: str, note: Callable
) -> Iterator[tuple[Key, list[Quantity]]]:
    """Depths and sizes of critical sets, on tasks that every run has evidence of."""
    every: list[dict[tuple[str, str, str, str], MethodCurve]] = []
    for run in runs:
        of_axis = run.evidence
        if axis != COMPUTATION:  # of one stack alone only ablation's
            ablated = (e for e in run.evidence if e.method == ABLATION)
            of_axis = [
                e for e in (restrict_to_stack(e, run.axes[axis]) for e in ablated) if e is not None
            ]
        every.append({(e.capability, e.protocol, e.method, e.task): e for e in of_axis})
    sizes = [len(run.axes[axis]) for run in runs]
    for place in _common_places([{key[:3] for key in of_run} for of_run in every], runs, note):
        tasks = _intersection([{key[3] for key in of_run if key[:3] == place} for of_run in every])
        aligned = [
            _align_items([of_run[(*place, task)] for of_run in every], runs) for task in tasks
        ]
        kept = [each for each in aligned if each]
        if not kept:
            what = dict(zip(("capability", "protocol", "method"), place, strict=True))
            note(exclusion_row(_names(runs), "no task has evidence in every run", **what))
            continue
        measured: list[dict[str, Summary]] = []
        for run, group in zip(runs, zip(*kept, strict=True), strict=True):
            summaries = list(capability_summaries(list(group), run.sampling))
            for silent in (each for each in summaries if isinstance(each, ExcludedTask)):
                note(unsaid(run, silent))
            measured.append({s.measure: s for s in summaries if not isinstance(s, ExcludedTask)})
        for measure in _intersection([set(of_run) for of_run in measured]):
            of_runs = [of_run[measure] for of_run in measured]
            named = {s.tasks for s in of_runs}
            if len(named) > 1:  # settled in other tasks
                continue
            n_items = min(s.n_items for s in of_runs)
            clusters = min((s.clusters for s in of_runs), key=lambda clusters: clusters.n)
            placed = []
            for s, size in zip(of_runs, sizes, strict=True):
                # in relative depth, and as shares of layers
                scale = None if measure == CRITICAL else Axis(size, 0.5, size)
                draws = s.draws / size if scale is None else scale.depth(s.draws)
                placed.append(Quantity(draws, n_items, clusters, curves=s.curves, axis=scale))
            yield Key(SIZE if measure == CRITICAL else DEPTH, *place, measure, axis, *named), placed


def _align_items(curves: Sequence[MethodCurve], runs: Sequence[PreparedRun]) -> list[MethodCurve]:
    """One task's evidence of every run on the items of all; none if these are too few."""
    if len({e.items for e in curves}) == 1:
        return list(curves)
    both = _intersection([set(e.items) for e in curves])
    if len(both) < 2:
        return []
    return [e.select_items(both, run.sampling) for e, run in zip(curves, runs, strict=True)]


def _losses(runs: Sequence[PreparedRun], note: Callable) -> Iterator[tuple[Key, list[Quantity]]]:
    """The share of the above-floor accuracy lost by third of the depth."""
    every = [_profiles(run) for run in runs]
    places = [{(*key[:2], ABLATION) for key in profiles} for profiles in every]
    for capability, protocol, _ in _common_places(places, runs, lambda row: None):
        place = capability, protocol
        tasks = _intersection(
            [{key[2] for key in profiles if key[:2] == place} for profiles in every]
        )
        shown = [
            t for t in tasks if len({profiles[(*place, t)].cell.items for profiles in every}) == 1
        ]  # fmt: skip
        if not shown:
            note(
                exclusion_row(
                    _names(runs),
                    "no task has signal in every run",
                    capability=capability,
                    protocol=protocol,
                    method=ABLATION,
                )
            )
            continue
        of_runs = [
            _by_third([profiles[(*place, task)] for task in shown], run.sampling)
            for profiles, run in zip(every, runs, strict=True)
        ]
        for third in (name for name in THIRDS if all(name in by_third for by_third in of_runs)):
            key = LOSS, *place, ABLATION, f"{third} third", COMPUTATION, tuple(shown)
            yield Key(*key), [by_third[third] for by_third in of_runs]


def _by_third(profiles: Sequence[GroupCosts], sampling: Sampling) -> dict[str, Quantity]:
    draws, n_items = mean_draws(profiles, sampling), sum(len(p.pseudo) for p in profiles)
    clusters = Clusters.concatenate([profile.cell.clusters for profile in profiles])
    return {
        name: Quantity(draws[:, i], n_items, clusters,
                       loss=Loss(tuple(profiles), i, len(layers)))
        for i, (name, layers) in enumerate(depth_thirds(sampling.n_layers).items())
    }  # fmt: skip


def _profiles(run: PreparedRun) -> dict[tuple[str, str, str], GroupCosts]:
    """By capability, protocol and task, where there is signal and every layer was skipped."""
    profiles = {}
    signal = signals(list(run.cells.values()), run.run.facts.chance)
    for cell in run.cells.values():
        whole = cell.interventions["layer"].tolist() == list(range(run.sampling.n_layers))
        if whole and len(cell.intact) > 1 and signal[cell.task, cell.protocol]:
            level = run.run.facts.chance(cell.task, cell.protocol)
            key = cell.capability, cell.protocol, cell.task
            profiles[key] = loss_profile(cell, level, depth_thirds(run.sampling.n_layers))
    return profiles


def depth_thirds(n_layers: int) -> dict[str, list[int]]:
    """The layers whose middle lies in each third of the depth; a third without any is left out."""
    third = ((np.arange(n_layers) + 0.5) / n_layers * 3).astype(int)
    by_third = {name: np.flatnonzero(third == i).tolist() for i, name in enumerate(THIRDS)}
    return {name: layers for name, layers in by_third.items() if layers}


def _common_places(
    places: Sequence[set[tuple[str, str, str]]], runs: Sequence[PreparedRun], note: Callable
) -> list[tuple[str, str, str]]:
    """Capability, protocol and method that every run speaks of; the others are noted."""
    for place in sorted(set.union(*places)):
        lacking = [
            r.run.name for r, of_run in zip(runs, places, strict=True) if place not in of_run
        ]
        if lacking:
            what = dict(zip(("capability", "protocol", "method"), place, strict=True))
            note(
                exclusion_row(_names(runs), f"nothing can be said of {', '.join(lacking)}", **what)
            )
    return _intersection(places)


def _intersection(sets: Sequence[set[Any]]) -> list[Any]:
    return sorted(set.intersection(*sets))


def _names(runs: Sequence[PreparedRun]) -> str:
    return ", ".join(run.run.name for run in runs)


def n_comparisons(groups: Sequence[Sequence[PreparedRun]]) -> Counter[str]:
    """Number of comparisons of each family for two groups, those left out as well."""
    planned: Counter[str] = Counter()
    for one, other in combinations(groups, 2):
        runs = [*one, *other]
        shared = _intersection([set(run.cells) for run in runs])
        places = {(runs[0].cells[cell].capability, cell[1]) for cell in shared}
        thirds = _intersection([set(depth_thirds(run.sampling.n_layers)) for run in runs])
        read = _intersection([
            {(e.capability, e.protocol, e.method) for e in (*r.evidence, *r.silent)} for r in runs
        ])  # fmt: skip
        # a method gives one depth on each axis that it has, a lens another if any answer settles
        settling = {e.method for run in runs for e in run.evidence if e.settled is not None}
        axes = len(_common_axes(runs))
        depths = sum(
            axes if method == ABLATION else 1 + (method in settling) for *_, method in read
        )
        planned += Counter({ACCURACY: len(shared), DEPTH: depths, LOSS: len(places) * len(thirds)})
    return planned
