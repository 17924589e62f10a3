"""What a run would cost, before it is made: work, memory, and time on this machine.

The pieces are those that the analyses themselves would make; no weights are needed, but to find
out how long texts get.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from transformer_lens import HookedTransformer

from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import KINDS, AblationSpec
from layerwise.analyses.arguments import check_arguments, model_or_name
from layerwise.analyses.attribution.job import Attribution
from layerwise.analyses.extra import ProfileStart
from layerwise.analyses.logit_lens.api import LENS_PROTOCOLS, Lens
from layerwise.analyses.patching.api import Patching
from layerwise.analyses.profile.api import Jobs as ProfileJobs
from layerwise.analyses.profile.extras import EXTRAS, planned_jobs, read_extras, wanted_extras
from layerwise.analyses.similarity.api import Similarity
from layerwise.errors import UserError
from layerwise.ground.readers import one_of
from layerwise.models import load_model
from layerwise.models.folder import has_weights
from layerwise.models.in_turn import in_turn
from layerwise.models.kinds import Model
from layerwise.models.meta_model import is_meta_model, load_meta_model
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.runs.records import seconds_in_words
from layerwise.runs.setup import Setup, TaskLike, check_layers, paired_tasks, prepare
from layerwise.runs.text_lengths import (
    TRIED,
    lengths_in,
    remember_lengths,
    remembered_lengths,
    worth_trying,
)
from layerwise.sweep import intact, skip
from layerwise.sweep.calibration import calibration_for, fewer_threads, stand_in_for
from layerwise.sweep.cost import Cost
from layerwise.tasks import PROTOCOLS

ANALYSES = ("ablation", "lens", "patching", "profile")
AT_MOST = (
    "At most: layers are skipped only where the intact model is above chance (unless "
    "exhaustive), and only tasks that it can do are patched."
)
NO_WEIGHTS = (
    "The model's weights are not on this machine, so that texts are taken to be half as long as "
    "they may be."
)
NO_MEMORY = (
    "No time is estimated: blocks of this model's shape do not fit into this machine's free "
    "memory, so that their speed cannot be measured."
)


@dataclass(frozen=True)
class PlanRow:
    """What one task costs under one protocol.

    Attributes:
        analysis: ``ablation``, ``lens``, ``patching``, ``attribution`` or ``similarity``.
        task: the task's name.
        protocol: how it is put to the model.
        cost: what that costs on its own.
    """

    analysis: str
    task: str
    protocol: str
    cost: Cost


@dataclass(frozen=True)
class RunPlan:
    """What a run would cost; ``str`` makes a table of it.

    Attributes:
        rows: each task and protocol on its own.
        total: all of it, as it is run: prompts that protocols share are run once.
        memory_budget: bytes that activations, keys and values may take.
        tokens_at_once: how many tokens are pushed through a block at once.
        notes: what one should know to read the numbers, a sentence each.
    """

    rows: tuple[PlanRow, ...]
    total: Cost
    memory_budget: int
    tokens_at_once: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        rows = [(row.analysis, row.task, row.protocol, row.cost) for row in self.rows]
        table = pd.DataFrame([_shown(*row) for row in (*rows, ("total", "", "", self.total))])
        sizes = (
            f"Memory budget: {self.memory_budget / 2**30:.4g} GiB. Tokens pushed through a block "
            f"at once: {self.tokens_at_once:,}."
        )
        return "\n".join([table.to_string(index=False), sizes, *self.notes])


def _shown(analysis: str, task: str, protocol: str, cost: Cost) -> dict[str, str]:
    fewer = cost.brute_force_token_passes / cost.token_passes if cost.token_passes else 1.0
    return {
        "analysis": analysis,
        "task": task,
        "protocol": protocol,
        "requests": f"{cost.requests:,}",
        "changes": f"{cost.interventions:,}",
        "walks": f"{cost.walks:,}",
        "token-passes": f"{cost.token_passes:,.0f}",
        "fewer": f"{fewer:.1f} x",
        "TFLOP": f"{cost.flop / 1e12:.3g}",
        "GiB": f"{cost.peak_bytes / 2**30:.2f}",
        "time here": "?" if cost.seconds is None else seconds_in_words(cost.seconds),
    }


@check_arguments(
    model=model_or_name,
    also=read_extras,
    analysis=one_of("analysis", ANALYSES),
    kind=one_of("kind of ablation", KINDS),
)
@in_turn
def plan_run(
    model: str | os.PathLike[str] | Model,
    tasks: TaskLike | Sequence[TaskLike] | None = None,
    protocols: str | Sequence[str] | None = None,
    *,
    analysis: str = "ablation",
    kind: str = "skip",
    site: str | None = None,
    layers: Sequence[int | str] | None = None,
    pairs: int = 16,
    exhaustive: bool = False,
    also: str | Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    chat: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    memory_budget: int | None = None,
    recalibrate: bool = False,
) -> RunPlan:
    """Say what a run would cost before it is made: work, memory, and time here.

    Speeds are measured in a few seconds on a few blocks of the model's shape, and remembered.
    Where texts of more than a few tokens are generated, their length is tried on some items with
    the model itself, if its weights are on this machine, and remembered too.

    Args:
        model: a model's name, of which only configuration and tokenizer are read; or a model.
        tasks: as for the analysis; what it takes if none are named.
        protocols: as for the analysis; what it takes if none are named, and for patching always
            ``continuation``.
        analysis: ``ablation``, ``lens``, ``patching`` or ``profile``.
        kind: of the ablation.
        site: of the ablation.
        layers: of the ablation; all if None.
        pairs: pairs of prompts a task for patching.
        exhaustive: of a profile: skip layers also where there is no signal.
        also: what a profile does beyond its main analyses, as for ``profile``; what of that is
            not planned is told in the notes.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites.
        fewshot: number of few-shot examples; the task's own if None.
        chat: wrap prompts in the tokenizer's chat template.
        dtype: number format of a model given by name.
        device: where a model given by name would be.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        recalibrate: measure again what is remembered.

    Raises:
        UserError: for anything that the analysis would refuse.
    """
    _refuse_unused(
        analysis,
        {"kind": kind != "skip", "site": site is not None, "layers": layers is not None},
        {"exhaustive": exhaustive},
    )
    given = isinstance(model, (HookedTransformer, Seq2SeqModel))
    subject = model if given else load_meta_model(model, dtype=dtype, device=device)
    if recalibrate:
        calibration_for(subject, None if given else device, anew=True)
    if analysis == "patching":
        tasks, protocols = paired_tasks(subject, tasks), "continuation"
    setup = prepare(
        subject, "all" if tasks is None else tasks,
        (LENS_PROTOCOLS if analysis == "lens" else PROTOCOLS) if protocols is None else protocols,
        seed=seed, limit=limit, fewshot=fewshot, chat=chat, memory_budget=memory_budget,
    )  # fmt: skip
    chosen = check_layers(layers, subject)
    extras = wanted_extras(also, subject.cfg)
    if extras and analysis != "profile":
        raise UserError(
            f"{extras[0]!r} was asked for beside {analysis!r}, but only a profile has more; plan "
            "'profile', or leave it out."
        )
    if analysis == "ablation":
        jobs = _Jobs(Ablation(setup, (AblationSpec.of(subject, kind, site, chosen),)))
    elif analysis == "lens":
        jobs = _Jobs(lens=Lens(setup))
    elif analysis == "patching":
        jobs = _Jobs(patching=Patching(setup, ("resid_pre",), pairs))
    else:
        profile = ProfileJobs.of(setup, pairs, exhaustive, extras)
        start = ProfileStart(setup, profile.lens.setup, pairs)
        more = planned_jobs(extras, start)
        jobs = _Jobs(profile.ablation, profile.lens, profile.patching, more)
    notes = [AT_MOST] if analysis == "profile" else []
    left_out = [name for name in extras if not EXTRAS[name].planned]
    notes += [f"Not in this plan, and not in its time: {', '.join(left_out)}."] if left_out else []
    if jobs.ablation is not None and not _find_lengths(setup, recalibrate):
        notes.append(NO_WEIGHTS)
    rows, total = tuple(jobs.rows()), jobs.total()
    notes += _notes(setup, total)
    return RunPlan(rows, total, setup.memory_budget, setup.tokens_at_once, tuple(notes))


def _refuse_unused(
    analysis: str, of_ablation: Mapping[str, bool], of_profile: Mapping[str, bool]
) -> None:
    """Refuse options that were given and that would change nothing in the plan."""
    for owner, options in (("ablation", of_ablation), ("profile", of_profile)):
        given = [name for name, was_given in options.items() if was_given and analysis != owner]
        if given:
            raise UserError(
                f"{given[0]!r} was given, which only the plan of {owner!r} has, and the plan of "
                f"{analysis!r} would be the same without it; plan {owner!r}, or leave it out."
            )


class _Jobs(NamedTuple):
    """The analyses that are planned."""

    ablation: Ablation | None = None
    lens: Lens | None = None
    patching: Patching | None = None
    readings: Mapping[str, Attribution | Similarity] = {}

    def rows(self) -> Iterator[PlanRow]:
        """Each task and protocol on its own."""
        if self.ablation is not None:
            setup = self.ablation.setup
            for task, protocol in product(setup.tasks, setup.protocols):
                cost = self.ablation.expected(task, (protocol,))
                yield PlanRow("ablation", task.name, protocol, cost)
        yield from self._others()

    def _others(self) -> Iterator[PlanRow]:
        """The rows of analyses that run each task and protocol on its own."""
        if self.lens is not None:
            for task, protocol in product(self.lens.setup.tasks, self.lens.setup.protocols):
                yield PlanRow("lens", task.name, protocol, self.lens.expected(task, protocol))
        if self.patching is not None:
            for task in self.patching.setup.tasks:
                cost = self.patching.expected(task)
                if cost.requests:
                    yield PlanRow("patching", task.name, "continuation", cost)
        for name, job in self.readings.items():
            for task, protocol in job.setup.pieces():
                yield PlanRow(name, task.name, protocol, job.expected(task, protocol))

    def total(self) -> Cost:
        """All of it, as it is run."""
        costs = [row.cost for row in self._others()]
        if self.ablation is not None:
            setup = self.ablation.setup
            costs += [self.ablation.expected(task, setup.protocols) for task in setup.tasks]
        return sum(costs, start=Cost())


def _find_lengths(setup: Setup, anew: bool) -> bool:
    """Try how long texts get where that matters and is unknown; false if it stays unknown."""
    wanted = setup.tasks if "generate" in setup.protocols else ()
    unknown = [
        task
        for task in wanted
        if worth_trying(task)
        and (anew or remembered_lengths(setup.loaded, task, setup.chat) is None)
    ]
    if not unknown:
        return True
    if is_meta_model(setup.model):
        cfg = setup.model.cfg
        if not has_weights(Path(str(getattr(cfg, "tokenizer_name", cfg.model_name)))):
            return False
        loaded = setup.loaded
        model = load_model(loaded.name, dtype=loaded.dtype, device=loaded.device)
        setup = replace(setup, model=model)
    changes = [intact(), skip(setup.model.cfg.n_layers // 2)]
    for task in unknown:
        tried = task.items[:TRIED]
        asked = [r.request for item in tried for r in setup.requests(task, item, "generate")]
        found = lengths_in(setup.sweep(changes, asked), asked)
        remember_lengths(setup.loaded, task, setup.chat, found)
    return True


def _notes(setup: Setup, total: Cost) -> Iterator[str]:
    """What one should know to read the numbers."""
    if total.most_text_token_passes:
        yield (
            f"Generated texts: {total.text_token_passes:,.0f} token-passes expected, "
            f"{total.most_text_token_passes:,} at most."
        )
    if setup.calibration is None:
        yield NO_MEMORY
        return
    rate = setup.calibration.flop_per_second / 1e9
    yield f"Matrix products of this model's sizes: {rate:,.0f} GFLOP/s here when it was calibrated."
    timed = (
        stand_in_for(setup.model, setup.loaded.device)
        if is_meta_model(setup.model)
        else setup.model
    )
    fewer = None if timed is None else fewer_threads(timed)
    if fewer is not None:
        yield (
            f"OMP_NUM_THREADS={fewer.better} would be {fewer.times:.1f} times faster now than the "
            f"{fewer.used} threads in use."
        )
