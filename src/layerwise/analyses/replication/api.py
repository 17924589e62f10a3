"""Test published claims on a model: what all of them need is measured once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerwise.analyses.ablation.api import enough_items
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.result import AblationResult, join_ablations
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.contract import Job, PlannedJob, PlannedJobs, planned_amount
from layerwise.analyses.execute import JobOfSetup, execute
from layerwise.analyses.shared.texts import read_texts
from layerwise.analyses.transplant.exchange.spec import refuse_misfit
from layerwise.errors import UserError, unknown_name
from layerwise.ground.argument_types import Names, known_name_validator
from layerwise.ground.readers import AnyPath
from layerwise.models import original_tokenizer
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import several_exclusive
from layerwise.models.instance.facts import tokenizer_language
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import PlanOptions, RunOptions
from layerwise.runs.progress import Meter, PartMeter
from layerwise.runs.records import write_requests
from layerwise.runs.setup import Setup, prepare, prepare_model
from layerwise.storage.base import Result
from layerwise.storage.parquet import frame
from layerwise.tasks.registry import TEXT as TEXT_SUITES
from layerwise.tasks.registry import is_suite, load_task, suites_like

from .claims import BY_NAME
from .measurements import (
    MEASUREMENTS,
    NO_TRAINED,
    TEXT,
    TRAINED,
    join_sets_of_heads,
    judge_results,
)
from .result import ReplicationResult
from .verdicts.claim import FULL, SCALES, SMALL, PublishedClaim

ALL = "all"
READ = "continuation"
ClaimNames = Annotated[Names, known_name_validator("claim", (*BY_NAME, ALL))]
"""Names of published claims."""


def refuse_no_data(scale: str = SMALL, data: AnyPath | None = None) -> None:
    """Refuse benchmarks without their folder, and a folder that nothing reads."""
    if scale == FULL and data is None:
        raise UserError(
            "The full scale asks benchmarks: expected the folder that holds them (mmlu, gsm8k and "
            "so on); name it by data, or take the small scale."
        )
    if scale != FULL and data is not None:
        raise UserError(
            "The small scale asks the built-in suites and reads no folder: expected no data; leave "
            "it out, or take the full scale."
        )


def refuse_unread_text(claims: ClaimNames = ALL, text: AnyPath | None = None) -> None:
    """Refuse a text that no claim reads, and a file that holds none."""
    if text is None:
        return
    if not any(TEXT in claim.needs.also for claim in select_claims(claims)):
        readers = ", ".join(name for name, claim in BY_NAME.items() if TEXT in claim.needs.also)
        raise UserError(
            f"None of these claims reads a text: expected one that does ({readers}); leave the "
            "text out, or ask for one of them."
        )
    read_texts(Path(text))


@check_arguments(refuse_no_data, refuse_unread_text)
def replicate(
    model: LoadedModel,
    claims: ClaimNames = ALL,
    *,
    scale: Annotated[str, known_name_validator("scale", SCALES)] = SMALL,
    data: AnyPath | None = None,
    also_distilled: LoadedModel | None = None,
    text: AnyPath | None = None,
    **run: Unpack[RunOptions],
) -> ReplicationResult:
    """Test whether published claims about layers hold for a model.

    Each claim has a test that was written before any result was seen, in both directions. All that
    the claims need is measured once, and their p-values are corrected together. ``docs/claims.md``
    has the claims and how a verdict is made.

    Args:
        claims: names such as ``song-3``, or ``all``.
        scale: ``small`` asks the built-in suites, ``full`` the benchmarks of the papers.
        data: of the full scale, the folder that holds the benchmarks, each in a folder of its name.
        also_distilled: a model of the same architecture that was distilled, or trained further,
            from this one, for the claims that compare the two.
        text: a ``.txt`` or ``.jsonl`` file for claims on running text, as for ``text_loss``.
        limit: take the first so many items of each task; if None as many as show, in 8 of 10
            runs, each layer that costs a capability 20 accuracy points.

    Returns:
        A verdict for each part of each claim: ``verdicts``; the numbers it stands on:
        ``verdict_numbers``.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.

    Example:
        >>> result = layerwise.replicate(model, "song-3")  # doctest: +SKIP
        >>> result.verdicts[["claim", "verdict", "estimate", "low", "high"]]  # doctest: +SKIP
    """
    folder = None if data is None else Path(data)
    refuse_no_data(scale, folder)
    refuse_unread_text(claims, text)
    chosen = select_claims(claims)
    both = [model] if also_distilled is None else [model, also_distilled]
    with several_exclusive(*both):
        if also_distilled is not None:
            refuse_misfit(model, also_distilled)
        language = tokenizer_language(original_tokenizer(model))
        of_claims, untestable = select_testable_tasks(
            chosen, claim_tasks(chosen, scale, folder, language), also_distilled is not None,
            lambda name, asked: prepare(model, [name], asked, **{**run, "limit": 1}),
        )  # fmt: skip
        if len(untestable) == len(chosen):
            raise UserError("\n".join(dict.fromkeys(untestable.values())))
        wanted = protocols_by_task(chosen, of_claims)
        also = (MEASUREMENTS[name].protocols for claim in chosen for name in claim.needs.also
                if name != TRAINED)  # fmt: skip
        protocols = list(dict.fromkeys(chain(*wanted.values(), *also))) or [READ]
        setup = (
            prepare(model, list(wanted), protocols, enough=enough_items, **run)
            if wanted
            else prepare_model(model, **run)
        )
        if also_distilled is not None:
            alike: RunOptions = {**run, "limit": None, "fewshot": None}  # which the tasks have
            alike["memory_budget"] = setup.memory_budget
            second = prepare(also_distilled, setup.tasks, setup.protocols, **alike)
            setup = replace(setup, beside=(second,))
        names = dict(zip(wanted, (task.name for task in setup.tasks), strict=True))
        tasks = {claim: [names[task] for task in asked] for claim, asked in of_claims.items()}
        read = None if text is None else Path(text)
        job = Replication.for_setup(setup, chosen, tasks, untestable, read)
        settings = setup.settings(analysis="replication", **job.settings(), scale=scale)
        results = execute(
            lambda parts, progress: job.run(parts, settings, progress),
            (AblationResult, *dict.fromkeys(each.result for each in MEASUREMENTS.values()),
             ReplicationResult),
            run["out"], settings, setup.refuse_changed, run["progress"], job.write_requests,
        )  # fmt: skip
    return next(result for result in results if isinstance(result, ReplicationResult))


def own_tasks(model: Any, options: PlanOptions) -> list[str]:
    """Names of the tasks that the claims of a plan ask."""
    known = {"claim": (*BY_NAME, ALL), "scale": SCALES}
    for what, names in (("claim", options["claims"]), ("scale", [options["scale"]])):
        for name in names:
            if name not in known[what]:
                raise unknown_name(what, name, known[what])
    refuse_no_data(options["scale"], options["data"])
    chosen = select_claims(options["claims"])
    language = tokenizer_language(original_tokenizer(model))
    tasks, _ = _tasks_of_one_model(chosen, language, options)
    return list(protocols_by_task(chosen, tasks))


def planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    """The jobs of a replication of one model, by what they do."""
    chosen, names = select_claims(options["claims"]), [task.name for task in setup.tasks]
    language = tokenizer_language(setup.tokenizer)
    asked, untestable = _tasks_of_one_model(chosen, language, options)
    named = dict(zip(protocols_by_task(chosen, asked), names, strict=True))
    tasks = {claim: [named[task] for task in own] for claim, own in asked.items()}
    job = Replication.for_setup(setup, chosen, tasks, untestable)
    skips = {f"layers, {'+'.join(each.setup.protocols)}": each for each in job.ablations}
    also = {name: each for name, each in job.measurements.items() if isinstance(each, PlannedJob)}
    notes = ["At most: layers are skipped only where the intact model is better than blind."]
    return PlannedJobs({**skips, **also}, tuple(notes))


def select_claims(names: Sequence[str]) -> tuple[PublishedClaim, ...]:
    """The claims with some names, in their usual order; all of them for ``all``."""
    return tuple(claim for name, claim in BY_NAME.items() if ALL in names or name in names)


def claim_tasks(
    claims: Sequence[PublishedClaim], scale: str, data: Path | None, language: str = TEXT_SUITES
) -> dict[str, list[str]]:
    """Names of the tasks that each claim needs.

    A model of a toy language is asked the suites of its language for the same capabilities.
    """
    named = {
        claim.name: (n.format(data=data) for n in claim.needs.tasks[scale]) for claim in claims
    }
    return {
        claim: list(dict.fromkeys(suite for n in names for suite in suites_like(n, language)))
        for claim, names in named.items()
    }


def select_testable_tasks(
    claims: Sequence[PublishedClaim],
    tasks: Mapping[str, list[str]],
    two_models: bool,
    check: Callable[[str, list[str]], object],
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The tasks by claim, none of claims that cannot be tested, and the reasons by claim.

    Their benchmarks are not there or too long for the model, which ``check`` refuses by name and
    ways of scoring, or there is no second model.
    """
    unreadable: dict[str, str] = {}
    for name, protocols in protocols_by_task(claims, tasks).items():
        if not is_suite(name):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the run itself says it of all items
                    check(name, list(protocols) or [READ])
            except UserError as refused:
                unreadable[name] = str(refused)
    reasons: dict[str, str] = {}
    for claim in claims:
        missing = [unreadable[task] for task in tasks[claim.name] if task in unreadable]
        missing += [NO_TRAINED] * (TRAINED in claim.needs.also and not two_models)
        if missing:
            reasons[claim.name] = " ".join(missing)
    return {**tasks, **{name: [] for name in reasons}}, reasons


def _tasks_of_one_model(
    claims: Sequence[PublishedClaim], language: str, options: PlanOptions
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The tasks that a plan counts, and why claims cannot be tested."""
    folder = None if options["data"] is None else Path(options["data"])
    tasks = claim_tasks(claims, options["scale"], folder, language)
    return select_testable_tasks(claims, tasks, False, lambda name, _: load_task(name, limit=1))


def protocols_by_task(
    claims: Sequence[PublishedClaim], tasks: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """All tasks that claims need, each with the ways of scoring it is asked under."""
    wanted: dict[str, list[str]] = {}
    for claim in claims:
        for name in tasks[claim.name]:
            protocols = wanted.setdefault(name, [])
            protocols += [p for p in claim.needs.protocols if p not in protocols]
    return {name: tuple(protocols) for name, protocols in wanted.items()}


@dataclass(frozen=True)
class Replication:
    """A planned replication: ablations of tasks by ways of scoring, and what else is needed."""

    setup: Setup  # of all tasks
    claims: tuple[PublishedClaim, ...]
    tasks: Mapping[str, Sequence[str]]  # names of those of each claim
    ablations: tuple[Ablation, ...]
    trained: tuple[Ablation, ...]  # those of the model that was trained from this one
    measurements: Mapping[str, JobOfSetup[Any]]  # what claims need beside them, by name
    missing: Mapping[str, str]  # reasons, by names of claims and of measurements

    @classmethod
    def for_setup(
        cls,
        setup: Setup,
        claims: tuple[PublishedClaim, ...],
        tasks: Mapping[str, Sequence[str]],
        untestable: Mapping[str, str],
        text: Path | None = None,
    ) -> Replication:
        """Of a setup of all tasks, named by claim; of claims without any; and of a text."""
        measurements: dict[str, JobOfSetup[Any]] = {}
        missing = dict(untestable)
        for name, measurement in MEASUREMENTS.items():
            testable = (claim for claim in claims if claim.name not in untestable)
            need = [claim for claim in testable if name in claim.needs.also]
            if not need:
                continue
            asked = protocols_by_task(need, tasks)
            some = tuple(task for task in setup.tasks if task.name in asked)
            own = replace(setup, tasks=some, protocols=measurement.protocols)
            try:
                measurements[name] = measurement.job(own, text)
            except UserError as refused:
                missing[name] = str(refused)
        compare = [claim for claim in claims if TRAINED in claim.needs.also]
        trained = [
            ablation
            for second in setup.beside
            for ablation in skip_layers_of(
                second, protocols_by_task(compare, tasks), "trained model"
            )
        ]
        ablations = skip_layers_of(setup, protocols_by_task(claims, tasks))
        return cls(setup, claims, tasks, ablations, tuple(trained), measurements, missing)

    def settings(self) -> dict[str, Any]:
        """Settings that make it this replication and no other."""
        claims = {name: list(tasks) for name, tasks in self.tasks.items()}
        also = {name: job.settings() for name, job in self.measurements.items()}
        settings = {"claims": claims, "also": also, "missing": dict(self.missing)}
        second = {setup.loaded.name: setup.loaded.hash for setup in self.setup.beside}
        return settings | ({"also_distilled": second} if second else {})

    def write_requests(self, folder: Path) -> None:
        """Write what was asked, of all ablations."""
        requests = (ablation.all_requests() for ablation in (*self.ablations, *self.trained))
        write_requests(chain.from_iterable(requests), folder)

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> list[Result]:
        """Make all that is needed, then the verdicts."""
        both = (*self.ablations, *self.trained)
        ablated = [ablation.amount() for ablation in both]
        amounts = {name: planned_amount(job) for name, job in self.measurements.items()}
        progress.expect(sum((*ablated, *amounts.values()), start=0.0))

        def make(job: Job[Any], amount: float) -> Any:
            part = PartMeter(progress, amount)
            result = job.run(parts, settings, part)
            part.set_expected(0.0)
            return result

        made = [make(*each) for each in zip(both, ablated, strict=True)]
        own, others = made[: len(self.ablations)], made[len(self.ablations) :]
        also = {name: make(job, amounts[name]) for name, job in self.measurements.items()}
        found = (
            result
            for result in also.values()
            if any(len(getattr(result, name)) for name in result.tables)
        )
        measured = join_sets_of_heads([*join_ablations(own), *found])
        progress.set_activity("testing claims")
        trained = pd.concat([frame("trained_records", []), *(one.records for one in others)])
        facts = self.setup.facts(settings)
        return [*measured, judge_results(self.claims, measured, trained, facts)]


def skip_layers_of(
    setup: Setup, asked: Mapping[str, Sequence[str]], analysis: str = "ablation"
) -> tuple[Ablation, ...]:
    """Ablations that skip each layer, of some tasks under their own ways of scoring."""
    by_protocols: dict[tuple[str, ...], list[Any]] = {}
    for task in setup.tasks:
        if asked.get(task.name):
            by_protocols.setdefault(tuple(asked[task.name]), []).append(task)
    layers = tuple(range(setup.model.cfg.n_layers))
    change = AblationSpec.for_model(setup.model, "skip", None, layers)
    return tuple(
        Ablation(
            replace(setup, tasks=tuple(some), protocols=protocols), (change,),
            only_with_signal=True, analysis=analysis,
        )
        for protocols, some in by_protocols.items()
    )  # fmt: skip
