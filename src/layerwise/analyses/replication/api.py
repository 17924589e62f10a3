"""Test published claims on a model: what all of them need is measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Unpack

from layerwise.analyses.ablation.api import enough_items
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.result import AblationResult, join_ablations
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.contract import Job, planned_amount
from layerwise.analyses.execute import JobOfSetup, execute
from layerwise.errors import UserError
from layerwise.ground.argument_types import Names, known_name_validator
from layerwise.ground.readers import AnyPath
from layerwise.models import original_tokenizer
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.facts import tokenizer_language
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import RunOptions
from layerwise.runs.progress import Meter, PartMeter
from layerwise.runs.records import write_requests
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.base import Result
from layerwise.tasks.registry import TEXT, suites_like

from .claim import FULL, SCALES, SMALL, PublishedClaim
from .claims import BY_NAME
from .measurements import MEASUREMENTS, join_measured, judge_results
from .result import ReplicationResult

ALL = "all"
READ = "continuation"
ClaimNames = Annotated[Names, known_name_validator("claim", (*BY_NAME, ALL))]
"""Names of published claims."""


def refuse_no_data(scale: str = SMALL, data: Path | None = None) -> None:
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


@check_arguments(refuse_no_data)
@exclusive
def replicate(
    model: LoadedModel,
    claims: ClaimNames = ALL,
    *,
    scale: Annotated[str, known_name_validator("scale", SCALES)] = SMALL,
    data: AnyPath | None = None,
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
    chosen = select_claims(claims)
    language = tokenizer_language(original_tokenizer(model))
    of_claims = claim_tasks(chosen, scale, folder, language)
    wanted = protocols_by_task(chosen, of_claims)
    protocols = list(dict.fromkeys(p for asked in wanted.values() for p in asked))
    also = (MEASUREMENTS[name].protocols for claim in chosen for name in claim.needs.also)
    protocols = list(dict.fromkeys([*protocols, *chain.from_iterable(also)]))
    protocols = protocols or [READ]  # where layers are never skipped, prompts are read
    setup = prepare(model, list(wanted), protocols, enough=enough_items, **run)
    names = dict(zip(wanted, (task.name for task in setup.tasks), strict=True))
    tasks = {claim: [names[task] for task in asked] for claim, asked in of_claims.items()}
    job = Replication.for_setup(setup, chosen, list(wanted.values()), tasks)
    settings = setup.settings(analysis="replication", **job.settings(), scale=scale)
    results = execute(
        lambda parts, progress: job.run(parts, settings, progress),
        tuple(dict.fromkeys([
            AblationResult, *(each.result for each in MEASUREMENTS.values()), ReplicationResult,
        ])),
        run["out"], settings,
        setup.refuse_changed, run["progress"], job.write_requests,
    )  # fmt: skip
    return next(result for result in results if isinstance(result, ReplicationResult))


def select_claims(names: Sequence[str]) -> tuple[PublishedClaim, ...]:
    """The claims with some names, in their usual order; all of them for ``all``."""
    return tuple(claim for name, claim in BY_NAME.items() if ALL in names or name in names)


def claim_tasks(
    claims: Sequence[PublishedClaim], scale: str, data: Path | None, language: str = TEXT
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
    measurements: Mapping[str, JobOfSetup[Any]]  # what claims need beside them, by name
    missing: Mapping[str, str]  # by the names of those that cannot be made, why

    @classmethod
    def for_setup(
        cls,
        setup: Setup,
        claims: tuple[PublishedClaim, ...],
        asked: Sequence[tuple[str, ...]],
        tasks: Mapping[str, Sequence[str]],
    ) -> Replication:
        """Of a setup of all tasks, each asked under its own ways of scoring."""
        by_protocols: dict[tuple[str, ...], list[Any]] = {}
        for task, protocols in zip(setup.tasks, asked, strict=True):
            by_protocols.setdefault(protocols, []).append(task)
        layers = tuple(range(setup.model.cfg.n_layers))
        change = AblationSpec.for_model(setup.model, "skip", None, layers)
        ablations = tuple(
            Ablation(
                replace(setup, tasks=tuple(some), protocols=protocols),
                (change,), only_with_signal=True,
            )
            for protocols, some in by_protocols.items()
            if protocols
        )  # fmt: skip
        measurements: dict[str, JobOfSetup[Any]] = {}
        missing: dict[str, str] = {}
        for name, measurement in MEASUREMENTS.items():
            own = {
                task for claim in claims if name in claim.needs.also for task in tasks[claim.name]
            }
            if own:
                some = tuple(task for task in setup.tasks if task.name in own)
                try:
                    measurements[name] = measurement.job(replace(setup, tasks=some))
                except UserError as refused:
                    missing[name] = str(refused)
        return cls(setup, claims, tasks, ablations, measurements, missing)

    def settings(self) -> dict[str, Any]:
        """Settings that make it this replication and no other."""
        claims = {name: list(tasks) for name, tasks in self.tasks.items()}
        also = {name: job.settings() for name, job in self.measurements.items()}
        return {"claims": claims, "also": also, "missing": dict(self.missing)}

    def write_requests(self, folder: Path) -> None:
        """Write what was asked, of all ablations."""
        requests = (ablation.all_requests() for ablation in self.ablations)
        write_requests(chain.from_iterable(requests), folder)

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> list[Result]:
        """Make all that is needed, then the verdicts."""
        ablated = [ablation.amount() for ablation in self.ablations]
        amounts = {name: planned_amount(job) for name, job in self.measurements.items()}
        progress.expect(sum([*ablated, *amounts.values()], start=0.0))

        def make(job: Job[Any], amount: float) -> Any:
            part = PartMeter(progress, amount)
            result = job.run(parts, settings, part)
            part.set_expected(0.0)
            return result

        made = [make(*each) for each in zip(self.ablations, ablated, strict=True)]
        also = {name: make(job, amounts[name]) for name, job in self.measurements.items()}
        found = (
            result
            for result in also.values()
            if any(len(getattr(result, name)) for name in result.tables)
        )
        measured = join_measured([*join_ablations(made), *found])
        progress.set_activity("testing claims")
        facts = self.setup.facts(settings)
        return [*measured, judge_results(self.claims, measured, facts)]
