"""The report: one HTML file with everything in it, made from saved results.

No model is run and nothing is fetched; figures, sentences and tables come from their own files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layerwise.analyses import loading
from layerwise.analyses.ablation.result import AblationResult, can_join
from layerwise.analyses.arguments import Results, check_arguments
from layerwise.analyses.emergence.result import EmergenceResult
from layerwise.analyses.measurements import with_curves
from layerwise.analyses.registry import ANALYSES, run_tables
from layerwise.errors import UserError
from layerwise.ground.readers import Paths
from layerwise.presentation.claim import ROLES, Claim, rank_claims
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.page import Report
from layerwise.report._page import Page, render
from layerwise.report._terminal import answer_text
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

MOST = 10
CHARACTERS = 400


def findings(results: Sequence[Result], most: int = MOST) -> list[Claim]:
    """Claims that the results of one run make.

    Args:
        results: results of one run, at most one of each kind but for ablations.
        most: of what is not about what layers are for, at most so many claims, and no more text
            than so many of ``CHARACTERS``.

    Returns:
        Claims in the order in which a reader is to meet them. None says more than its test. What
        layers are for, and which tasks have no signal, is never cut off.

    Raises:
        UserError: if the results are of different models or items.
    """
    return findings_from_tables(run_tables(results), most)


def findings_from_tables(run: RunTables, most: int = MOST) -> list[Claim]:
    """As ``findings``, from tables that were gathered before."""
    with model_layer_names(run.facts.model):
        caveats = [claim for analysis in ANALYSES for claim in analysis.caveats(run)]
        findings = [claim for analysis in ANALYSES for claim in analysis.findings(run)]
    kept = [*caveats, *(claim for claim in findings if claim.kind in ROLES)]
    others: list[Claim] = []
    most -= bool(caveats)  # they take the room of one
    for claim in sorted(findings, key=lambda claim: -claim.importance):
        length = sum(len(each.short) for each in (*others, claim))
        fits = len(others) < most and length <= most * CHARACTERS
        if claim.kind not in ROLES and fits:
            others.append(claim)
    return rank_claims([*kept, *others])


@check_arguments()
def report(results: Results) -> Report:
    """Put results into one page.

    Args:
        results: one result or several. Results of one model on the same items make one run,
            ablations of different changes too; others stand side by side.

    Raises:
        UserError: if there are none.
    """
    given = [results] if isinstance(results, Result) else list(results)
    runs = [run_tables(group) for group in group_by_run(given)]
    return _report(runs, [""] * len(runs))


@check_arguments()
def report_from_folders(folders: Paths) -> Report:
    """Make one page from the saved results of one or several runs.

    Depths are computed again where a folder has none, or some made before another result.

    Args:
        folders: the folder of a run, or several.

    Raises:
        UserError: if there are none, or one of them cannot be read.
    """
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    runs = [run_tables(_with_emergence(loading.load(folder))) for folder in listed]
    return _report(runs, [f" ({Path(folder).resolve().name})" for folder in listed])


def _with_emergence(results: list[Result]) -> list[Result]:
    """Results with depths that were joined after all that they are joined from was made."""
    from layerwise.analyses.emergence.api import emergence

    joinable = with_curves(results)
    made = [r.facts.created for r in results if isinstance(r, EmergenceResult)]
    if not joinable or any(max(r.facts.created for r in joinable) <= at for at in made):
        return results
    others = [result for result in results if not isinstance(result, EmergenceResult)]
    return [*others, emergence(joinable, seed=joinable[0].facts.seed)]


def group_by_run(results: Sequence[Result]) -> list[list[Result]]:
    """Results by run: one model and its items, one result a kind, or ablations that differ."""
    groups: list[list[Result]] = []
    for result in results:
        home = next((group for group in groups if _fits(group, result)), None)
        groups.append([result]) if home is None else home.append(result)
    return groups


def _fits(group: Sequence[Result], result: Result) -> bool:
    of_group = {task.name: task.hash for other in group for task in other.facts.tasks}
    alike = [other for other in group if type(other) is type(result)]
    return (
        group[0].facts.model == result.facts.model
        and all(of_group.get(task.name, task.hash) == task.hash for task in result.facts.tasks)
        and all(isinstance(result, AblationResult) and isinstance(other, AblationResult)
                and can_join(other, result) for other in alike)
    )  # fmt: skip


def _report(runs: list[RunTables], origins: list[str]) -> Report:
    if not runs:
        raise UserError(
            "There is nothing to report: expected at least one result or folder; "
            "run an analysis first."
        )
    several = len(runs) > 1
    pages = [
        Page(f"Run {i}{origin}, {run.facts.model.name}" if several else run.facts.model.name, run,
             findings_from_tables(run))
        for i, (run, origin) in enumerate(zip(runs, origins, strict=True), start=1)
    ]  # fmt: skip
    claims = [
        replace(claim, short=f"{page.name}: {claim.short}") if several else claim
        for page in pages
        for claim in page.findings
    ]
    every = tuple(rank_claims(claims) if several else claims)
    return Report(every, lambda: render(pages), lambda: _text(pages))


def _text(pages: Sequence[Page]) -> str:
    texts = [answer_text(page.answer, page.sure) for page in pages]
    if len(pages) == 1:
        return texts[0]
    return "\n\n".join(f"== {page.name}\n{text}" for page, text in zip(pages, texts, strict=True))
