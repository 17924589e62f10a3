"""Saved runs side by side: what differs between models, or between groups of training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from layerwise.analyses.ablation.tables.saved_effects import single_layers
from layerwise.errors import UserError
from layerwise.ground.argument_types import Resamples, Seed
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import Runs
from layerwise.presentation.rows import rows
from layerwise.stats.depth.depth_inference import refuse_negative_depth
from layerwise.storage.parquet import conform, frame

from .harness_logs import refuse_few_resamples
from .quantities import PreparedRun, n_comparisons, prepare_run, unsaid
from .report import Comparison
from .runs import (
    ComparisonFacts,
    RunFacts,
    SavedRun,
    on_shared_tasks,
    refuse_mixed_group,
    refuse_other_prompts,
    refuse_same_model,
    saved_runs,
    shared_change,
)
from .tables import correct_families, difference_rows, estimate_rows, group_rows, n_tests

Folders = Sequence[str | Path]


@check_arguments()
def compare(
    runs: Runs,
    *,
    seed: Seed = 0,
    n_resamples: Resamples = 10_000,
    smallest_depth: float = 1.0,
) -> Comparison:
    """Compare saved runs of different models, with a test for each difference.

    Every two runs are compared on the tasks whose very same items were asked in all of them,
    paired over items. Groups of runs (training seeds of one architecture each) are compared as
    groups, with the run as the unit.

    Args:
        runs: the folders of two or more runs; or of two or more groups by name, each of two or
            more runs.
        seed: seed of the bootstrap over items.
        n_resamples: number of bootstrap samples, for intervals of accuracies and shares.
        smallest_depth: smallest difference of depth that is of interest, in layers of the model
            that has the fewest; less is not called a difference.

    Returns:
        The tables of ``docs/comparing.md``; ``save`` writes them with figures and one page.

    Raises:
        UserError: if a folder cannot be read; if two runs are of the same model; if items,
            protocols or metrics differ so that nothing is left to compare.
    """
    folders = _grouped_folders(runs)
    refuse_few_resamples(n_resamples)
    refuse_negative_depth(smallest_depth)
    saved = saved_runs(folders)
    refuse_same_model(saved)
    refuse_other_prompts(saved)
    if saved[0].group is not None:
        refuse_mixed_group(saved)
    shared, silent = on_shared_tasks(saved)
    change = shared_change(shared)
    ready = [prepare_run(run, seed, n_resamples) for run in shared]
    silent += [unsaid(run, each) for run in ready for each in run.silent]
    groups: dict[str, list[PreparedRun]] = {}
    for run in ready:
        groups.setdefault(run.run.group or run.run.name, []).append(run)
    n_planned = n_comparisons(list(groups.values()))
    tested = list(difference_rows(groups, silent, smallest_depth))
    differences = correct_families(tested, n_planned)
    spread = [] if saved[0].group is None else list(group_rows(groups))
    if not differences:
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in silent[-3:]))
        raise UserError(
            "The runs share items, and yet nothing can be compared "
            f"({reasons or 'no protocol and method is in all of them'}): expected the same "
            "protocols and analyses; run them again with the same --protocol."
        )
    distinct = {tuple(sorted(row.items())): row for row in silent}
    run_facts = tuple(RunFacts(name=run.name, group=run.group, facts=run.facts) for run in shared)
    return Comparison(
        _layers(shared, change),
        frame("comparison_estimates", list(estimate_rows(ready))),
        frame("comparison_differences", differences),
        frame("comparison_groups", spread),
        frame("comparison_left_out", list(distinct.values())),
        _verdicts(saved),
        ComparisonFacts(
            seed=seed,
            n_resamples=n_resamples,
            runs=run_facts,
            n_tests=n_tests([row["family"] for row in differences], n_planned),
        ),
    )


def _verdicts(runs: Sequence[SavedRun]) -> pd.DataFrame:
    """The verdicts of all runs on published claims, run by run."""
    found = [run.verdicts.assign(run=run.name) for run in runs]
    return conform("comparison_verdicts", pd.concat(found))


def runs_or_groups(
    runs: Sequence[Path], groups: Sequence[str]
) -> Sequence[Path] | dict[str, list[str]]:
    """Runs to compare, from words: folders, or groups such as ``"small=run1,run2"``."""
    if not groups:
        return runs
    if runs:
        raise UserError(
            "Runs and groups were given at once: expected either the folders of runs, or --group "
            "for all of them."
        )
    by_name: dict[str, list[str]] = {}
    for text in groups:
        name, _, listed = text.partition("=")
        folders = [folder.strip() for folder in listed.split(",") if folder.strip()]
        if not name.strip() or not folders or name.strip() in by_name:
            raise UserError(
                f"Cannot read the group {text!r}: expected NAME=FOLDER,FOLDER,... with another "
                "name for each group."
            )
        by_name[name.strip()] = folders
    return by_name


def _grouped_folders(runs: Folders | Mapping[str, Folders]) -> list[tuple[Path, str | None]]:
    """The folders, each with its group."""
    if isinstance(runs, str | Path) or len(runs) < 2:
        raise UserError(
            "There is nothing to compare with: expected two or more runs, or two or more groups "
            "of them; give another folder, or use `layerwise report` for one run."
        )
    if not isinstance(runs, Mapping):
        return [(Path(folder), None) for folder in runs]
    small = [name for name, folders in runs.items() if len(folders) < 2]
    if small:
        raise UserError(
            f"Group {small[0]!r} has fewer than two runs, and from one training seed nothing can "
            "be said about an architecture: expected several seeds of each group; train more, or "
            "compare the runs as single models, without groups."
        )
    return [(Path(folder), name) for name, folders in runs.items() for folder in folders]


def _layers(runs: Sequence[SavedRun], change: tuple[str, str] | None) -> pd.DataFrame:
    """Effects of changing one layer, with the part of the depth that each layer takes."""
    asked = [set(run.ablation.records["protocol"]) for run in runs if run.ablation is not None]
    tables = []
    for run in runs:
        if run.ablation is not None and change is not None:
            kind, site = change
            effects = rows(single_layers(run.ablation.effects()), kind=kind, site=site)
            effects = effects.loc[effects["protocol"].isin(list(set.intersection(*asked)))]
            layer, n_layers = effects["layer"].to_numpy(dtype=int), run.facts.model.n_layers
            ends = {"start": layer / n_layers, "end": (layer + 1) / n_layers}
            tables += [effects.assign(run=run.name, **ends)] * bool(len(effects))
    name = "comparison_layers"
    return conform(name, pd.concat(tables)) if tables else frame(name, [])
