"""The whole profile of a model: ablation, logit lens, patching, emergence, and their page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerwise.analyses.ablation.api import enough_items, planned_power
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.contract import (
    PlannableAnalysis,
    PlannedJob,
    PlannedJobs,
    PlanOptions,
    ProfileStart,
    planned_amount,
)
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.execute import execute
from layerwise.analyses.loading import rebuild_depths
from layerwise.analyses.logit_lens.api import Lens
from layerwise.analyses.patching.api import Patching
from layerwise.analyses.registry import EXTRAS, RESULTS
from layerwise.errors import UserError
from layerwise.ground.argument_types import Names, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.presentation.claim import refuse_foreign_claims
from layerwise.report import Report, report
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import RunOptions
from layerwise.runs.progress import Meter, PartMeter, meter
from layerwise.runs.setup import Setup, prepare
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects
from layerwise.storage.atomic_files import keep_deleted_folders_deleted
from layerwise.storage.base import Result
from layerwise.storage.places import FIGURES, PAGE, refuse_unusable_page
from layerwise.sweep import LogLikelihood, skip
from layerwise.tasks.task import refuse_fewshot_seeds

FORWARDS_TIMED = 3
AT_MOST = (
    "At most: layers are skipped only where the intact model is better than blind (unless "
    "exhaustive), and only tasks that it can do are patched."
)
FIRST_DRAW = (
    "Layers, parts and heads are changed with {} draws of the few-shot examples. The other "
    "analyses use the first draw; no depth is estimated by ablation."
)

ExtraNames = Annotated[Names, known_name_validator("addition to a profile", (*EXTRAS, "all"))]
"""Names of what a profile does beyond its main analyses."""


@dataclass(frozen=True)
class Profile:
    """Results of all analyses of a profile, with their joint report.

    Attributes:
        results: ablation, lens, patching and emergence results.
        report: the page that joins them.
        path: the report's file, if a folder was given.
    """

    results: tuple[Result, ...]
    report: Report
    path: Path | None = None

    @property
    def work(self) -> dict[str, float]:
        """Token-passes done, those of one forward per change and request, and seconds of both.

        ``brute_force_seconds`` is what plain hooked forwards would have taken, from the time of
        a few of them.
        """
        work: tuple[dict[str, Any], ...] = self.results[0].facts.work
        entries = [e for e in work if "token_passes" in e]
        keys = ("token_passes", "brute_force_token_passes", "seconds")
        totals = {key: sum((float(e[key]) for e in entries), start=0.0) for key in keys}
        for timed in (e for e in work if "forward_seconds" in e):
            rate = timed["forward_seconds"] / timed["forward_token_passes"]
            totals["brute_force_seconds"] = rate * totals["brute_force_token_passes"]
        return totals

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def _refuse_unusable_page(out: str | Path | None) -> None:
    """Refuse a folder in which the page and its figures cannot be written at the end."""
    if out is not None:
        refuse_unusable_page(Path(out) / PAGE)
        refuse_foreign_claims(Path(out))


@check_arguments(check_smallest_effects, refuse_fewshot_seeds, _refuse_unusable_page)
@exclusive
def profile(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    pairs: int = 16,
    exhaustive: bool = False,
    also: ExtraNames = (),
    smallest_loss: float = 0.05,
    smallest_nats: float = 0.1,
    smallest_depth: float = 1.0,
    fewshot_seeds: int = 1,
    **run: Unpack[RunOptions],
) -> Profile:
    """Measure which layers each capability of a model needs, and how sure that is.

    Skips each layer in turn under every task and protocol, reads every layer through the logit
    lens, patches activations where tasks offer pairs of prompts, and joins all of it.

    Args:
        limit: take the first so many items of each task; if None as many as show, in 8 of 10
            runs, each layer that costs a capability 20 accuracy points (``docs/planning.md``).
        pairs: at most so many pairs of each task for patching.
        exhaustive: skip layers also where the model has no signal. No claim is made there, so by
            default that time is saved.
        also: further analyses: ``parts``, ``heads``, ``attribution``, ``head-scores``,
            ``similarity``, ``removal``, ``estimates``, ``paths``, ``early-exit``, or ``all``; also
            ``interactions``, of all pairs of layers, which takes much longer. They use the tasks
            that the model can do.
        fewshot_seeds: number of draws of the few-shot examples, 1 to 10, with which layers, parts
            and heads are changed. Effects, signal, intervals and tests include their spread. Other
            analyses use the first draw, and ablation gives no depths.
        chat: wrap prompts in the tokenizer's chat template (ablation and lens).
        out: folder for tables, figures and ``report.html``; an interrupted run goes on there.

    Returns:
        The results, and the report that joins them.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.
    """
    check_smallest_effects(smallest_loss, smallest_nats, smallest_depth)
    refuse_fewshot_seeds(fewshot_seeds)
    out, progress = run["out"], run["progress"]
    _refuse_unusable_page(out)
    interest = SmallestEffects(smallest_loss, smallest_nats, smallest_depth)
    setup = prepare(model, tasks, protocols, interest=interest, enough=enough_items, **run)
    extras = wanted_extras(also, model.cfg)
    jobs = Jobs.from_setup(setup, pairs, exhaustive, extras, fewshot_seeds)
    settings = setup.settings(
        analysis="profile", **jobs.ablation.settings(), **jobs.patching.settings(),
        **({"also": list(extras)} if extras else {}),
    )  # fmt: skip
    results = execute(
        lambda parts, progress: jobs.run(parts, settings, progress),
        RESULTS, out, settings, setup.refuse_changed, progress, jobs.ablation.write_requests,
        rebuild_depths,
    )  # fmt: skip
    with meter(progress) as progressed:
        progressed.set_activity("drawing the page")
        page = report(results)
        if out is None:
            return Profile(tuple(results), page)
        with keep_deleted_folders_deleted(Path(out)):
            page.save_figures(Path(out) / FIGURES)
            page.save_claims(out)
            return Profile(tuple(results), page, page.save(Path(out) / PAGE))


@dataclass(frozen=True)
class Jobs:
    """The analyses of a profile, planned and checked."""

    ablation: Ablation
    lens: Lens
    patching: Patching
    extras: tuple[str, ...] = ()

    @classmethod
    def from_setup(
        cls, setup: Setup, pairs: int, exhaustive: bool, extras: tuple[str, ...] = (),
        fewshot_seeds: int = 1,
    ) -> Jobs:  # fmt: skip
        """The analyses of a setup, the ablation with some draws of examples; and what is wanted."""
        read = {"letter": "letter", "continuation": "continuation", "generate": "continuation"}
        protocols = tuple(dict.fromkeys(read[protocol] for protocol in setup.protocols))
        sites = ("resid_pre", "z") if "heads" in extras else ("resid_pre",)
        return cls(
            Ablation(
                setup, ablation_changes(setup, extras), only_with_signal=not exhaustive,
                fewshot_seeds=fewshot_seeds,
            ),
            Lens(replace(setup, protocols=protocols), strict=False),
            Patching(replace(setup, protocols=("continuation",)), pairs, sites, strict=False),
            extras,
        )  # fmt: skip

    def planned_jobs(self) -> dict[str, PlannedJob]:
        """By name those of which a plan can say what they cost, of all tasks."""
        start = ProfileStart(self.ablation.setup, self.lens.setup, self.patching.pairs)
        jobs: Any = {"ablation": self.ablation, "lens": self.lens, "patching": self.patching}
        for extra in (EXTRAS[name] for name in self.extras):
            for job in extra.jobs(start) if extra.planned else ():
                jobs[extra.name] = job
        return jobs

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> list[Result]:
        """Make all of them, one after the other."""
        setup, reads, pairs = self.ablation.setup, self.lens.setup, self.patching.pairs
        first = [self.ablation.amount(), planned_amount(self.lens)]
        _, _, *others = self.planned_jobs().values()
        later = sum(map(planned_amount, others))
        progress.expect(sum(first) + later)

        def make_part(job: Any, amount: float) -> Any:
            part = PartMeter(progress, amount)
            result = job.run(parts, settings, part)
            part.set_expected(0.0)
            return result

        ablation, lens = make_part(self.ablation, first[0]), make_part(self.lens, first[1])
        # Only the tasks that the model can do: a lucky guess carries no answer.
        signal = ablation.signal()
        known = set(signal.loc[signal["signal"], "task"])
        able = replace(setup, tasks=tuple(task for task in setup.tasks if task.name in known))
        start = ProfileStart(able, replace(able, protocols=reads.protocols), pairs)
        of_pairs = replace(self.patching.setup, tasks=able.tasks)
        # First those that need no task, for none may be left.
        extras = sorted((EXTRAS[name] for name in self.extras), key=lambda extra: extra.asks_tasks)
        more = (job for extra in extras if able.tasks or not extra.asks_tasks
                for job in extra.jobs(start))  # fmt: skip
        jobs = [replace(self.patching, setup=of_pairs), *more]
        amounts = [planned_amount(job) for job in jobs]
        progress.expect(sum(amounts) - later)
        patching, *more = map(make_part, jobs, amounts)
        timed = self._plain_forward_timing(parts, progress)
        parts_of_work = [result.facts.work for result in (ablation, lens, patching, *more)]
        work = (*chain.from_iterable(parts_of_work), timed)
        progress.set_activity("statistics and report")
        facts = ablation.facts.model_copy(update={"work": work})
        measured = [replace(ablation, facts=facts), lens]
        if len(patching.patching):
            measured.append(patching)
        measured += [result for result in more if len(result.to_pandas())]
        depth = setup.interest.depth
        return [*measured, emergence(measured, seed=setup.seed, smallest_depth=depth)]

    def _plain_forward_timing(self, parts: CheckpointStore, progress: Meter) -> dict[str, Any]:
        """Seconds of one plain hooked forward per change and request, from a few of them."""
        name = "timing of plain forwards"
        if not parts.has_part(name):
            progress.set_activity("timing a few plain forwards, for comparison")
            setup = self.ablation.setup
            chosen = [
                setup.requests(task, task.items[0], setup.protocols[0])[0].request
                for task in setup.tasks[:FORWARDS_TIMED]
            ]
            requests = [LogLikelihood(request.context, (0,)) for request in chosen]
            change = [skip(setup.model.cfg.n_layers // 2)]
            setup.sweep(change, requests[:1], "reference")  # the first run warms up
            stats = setup.sweep(change, requests, "reference").stats
            entry = {
                "analysis": "plain forwards, timed for comparison",
                "forwards": len(requests),
                "forward_seconds": stats.seconds,
                "forward_token_passes": stats.token_passes,
            }
            parts.write_part(name, pd.DataFrame([entry]))
        return parts.read_part(name).to_dict("records")[0]


def wanted_extras(names: Sequence[str], cfg: Any) -> tuple[str, ...]:
    """Names of extras in their usual order; ``all`` stands for most that the model allows."""
    for name in names:
        if name != "all":
            EXTRAS[name].refuse(cfg)
    wanted = set(names)
    for name, extra in EXTRAS.items() if "all" in names else ():
        if extra.in_all:
            with suppress(UserError):
                extra.refuse(cfg)
                wanted.add(name)
    return tuple(name for name in EXTRAS if name in wanted)


def ablation_changes(setup: Setup, extras: Sequence[str]) -> tuple[AblationSpec, ...]:
    """Changes that the ablation of a profile makes: layers, and what else is wanted."""
    model, cfg = setup.model, setup.model.cfg
    sites: list[str | None] = [None]
    if "parts" in extras:
        sites += ["attn_out"] if cfg.attn_only else ["attn_out", "mlp_out"]
    if "heads" in extras:
        sites.append("z")
    if is_seq2seq(model):
        more = {"attn_out": "cross_attn_out", "z": "cross_z"}
        sites += [more[site] for site in sites if site in more]
    layers = tuple(range(cfg.n_layers))
    return tuple(AblationSpec.for_model(model, "skip", site, layers) for site in sites)


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    extras = wanted_extras(options["also"], setup.model.cfg)
    main = Jobs.from_setup(
        setup, options["pairs"], options["exhaustive"], extras, options["fewshot_seeds"]
    )
    left_out = [name for name in extras if not EXTRAS[name].planned]
    notes = [AT_MOST]
    if left_out:
        notes.append(f"Not in this plan, and not in its time: {', '.join(left_out)}.")
    if options["fewshot_seeds"] > 1:
        notes.append(FIRST_DRAW.format(options["fewshot_seeds"]))
    power = planned_power(setup, setup.model.cfg.n_layers)
    return PlannedJobs(main.planned_jobs(), tuple(notes), power=power)


PLANNED = PlannableAnalysis(
    "profile", _planned_jobs, options=("exhaustive", "also", "fewshot_seeds"), enough=enough_items
)
