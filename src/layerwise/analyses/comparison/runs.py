"""Saved runs made ready to be compared: what they share, and what is refused or left out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from layerwise.analyses import loading
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.measurements import curves_in_words, with_curves
from layerwise.analyses.replication.result import ReplicationResult
from layerwise.errors import UserError, count_noun
from layerwise.storage.base import Result
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.parquet import frame
from layerwise.storage.places import COMPARISON_PAGE
from layerwise.storage.provenance import Facts, FrozenModel, StampedModel, TaskFacts, join_facts

# Centres of mass and critical sets are given for each run, and not compared.
MEASURES = (
    "accuracy", "half-effect depth", "prediction depth", "early third", "middle third",
    "late third",
)  # fmt: skip
AXES = ("computation", "encoder", "decoder")
# What the values of a family are counted in, and how many of these are 1.
UNITS = {
    "accuracy": ("accuracy (%)", 100),
    "depth": ("depth (%)", 100),
    "share lost": ("score lost per layer (%)", 100),
    "critical set": ("critical layers (% of all)", 100),
}


class RunFacts(FrozenModel):
    """A run that was compared."""

    name: str = Field(description="What it is called in the tables.")
    group: str | None = Field(description="The group that it belongs to; null without groups.")
    facts: Facts = Field(description="What is needed to repeat it; of its tasks, those compared.")


class ComparisonFacts(StampedModel):
    """Everything needed to repeat a comparison."""

    seed: int = Field(description="The seed of the bootstrap over items.")
    n_resamples: int = Field(description="Number of bootstrap samples.")
    runs: tuple[RunFacts, ...] = Field(description="The runs, in the order given.")
    n_tests: dict[str, int] = Field(
        default={},
        description="How many tests of each family were corrected together, those of what could "
        "not be compared as well.",
    )
    files: dict[str, str] = Field(
        default={},
        description="In comparison.json: SHA-256 of each table by name, and under its own name "
        "that of all else that it says.",
    )

    @property
    def groups(self) -> list[str]:
        """Names of the groups; none if runs were compared one by one."""
        return list(dict.fromkeys(run.group for run in self.runs if run.group is not None))


FOLDER = JoinedFolder(
    "comparison", ComparisonFacts, COMPARISON_PAGE,
    "a folder for the comparison", ("layerwise compare", "compare the runs again"),
)  # fmt: skip


@dataclass(frozen=True)
class SavedRun:
    """A run as it is compared."""

    name: str  # what it is called; unique among the runs
    group: str | None  # None if there are no groups
    facts: Facts
    results: tuple[Result, ...]  # its results of the kinds that can be compared
    # Its verdicts on published claims, if it tested any.
    verdicts: pd.DataFrame = field(default_factory=lambda: frame("verdicts", []))

    @classmethod
    def from_results(cls, name: str, group: str | None, curves: Sequence[Result]) -> SavedRun:
        """A run with some results."""
        return cls(name, group, join_facts([result.facts for result in curves]), tuple(curves))

    @property
    def ablation(self) -> AblationResult | None:
        """Its ablation, if it has one."""
        return next((r for r in self.results if isinstance(r, AblationResult)), None)


def exclusion_row(runs: str, reason: str, **what: str) -> dict[str, Any]:
    """A row of ``comparison_left_out.parquet``."""
    return {"runs": runs, "reason": reason} | what


def saved_runs(folders: Sequence[tuple[Path, str | None]]) -> list[SavedRun]:
    """Read the folders of runs, each with its group."""
    runs, names = [], _names([folder for folder, _ in folders])
    for name, (folder, group) in zip(names, folders, strict=True):
        results = loading.load(folder)
        curves = with_curves(results)
        if not curves:
            raise UserError(
                f"The run in {folder} has nothing to compare: expected an {curves_in_words()}; run "
                "one of these, or a profile, with this folder."
            )
        run = SavedRun.from_results(name, group, curves)
        tested = [one.verdicts for one in results if isinstance(one, ReplicationResult)]
        runs.append(replace(run, verdicts=tested[0]) if tested else run)
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; more of the path where these are not enough."""
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(
        "A folder was given twice: expected the folder of another run each time; leave one out."
    )


def refuse_same_model(runs: Sequence[SavedRun]) -> None:
    """Refuse two runs of one model."""
    for one, other in combinations(runs, 2):
        model, other_model = one.facts.model, other.facts.model
        if (model.hash, model.dtype) == (other_model.hash, other_model.dtype):
            raise UserError(
                f"{one.name} and {other.name} are runs of the same model ({model.name}, hash "
                f"{model.hash[:12]}), between which there is nothing to find: expected different "
                "models; `layerwise report` puts runs of one model side by side."
            )


def refuse_other_prompts(runs: Sequence[SavedRun]) -> None:
    """Refuse runs of which some were asked in a chat template."""
    chat = {run.name: bool(run.facts.settings.get("chat", False)) for run in runs}
    if len(set(chat.values())) > 1:
        names = {on: ", ".join(n for n, c in chat.items() if c == on) for on in (True, False)}
        raise UserError(
            f"The protocols differ: prompts stood in a chat template in {names[True]} and not in "
            f"{names[False]}; expected the same prompts, so run both with or both without --chat."
        )


def refuse_mixed_group(runs: Sequence[SavedRun]) -> None:
    """Refuse a group whose models are not seeds of one architecture."""
    for group in dict.fromkeys(run.group for run in runs):
        shapes = shapes_note([run for run in runs if run.group == group], "in")
        if shapes:
            raise UserError(
                f"Group {group!r} holds models of different shape ({shapes}): expected training "
                "seeds of one architecture; put the others into a group of their own."
            )


def shapes_note(runs: Sequence[SavedRun], where: str) -> str:
    """The sizes of models and a run of each; empty if all are the same."""
    shapes: dict[str, str] = {}
    for run in runs:
        model, n_encoder = run.facts.model, run.facts.model.n_encoder_layers
        stacks = f"{n_encoder} of the encoder, " if n_encoder else ""
        layers = count_noun(model.n_layers, "layer")
        shapes.setdefault(f"{layers}, {stacks}{model.n_parameters} parameters", run.name)
    listed = [f"{shape} {where} {name}" for shape, name in shapes.items()]
    return "; ".join(listed) if len(shapes) > 1 else ""


def on_shared_tasks(runs: Sequence[SavedRun]) -> tuple[list[SavedRun], list[dict[str, Any]]]:
    """The runs with the tasks alone that all of them asked by the very same items."""
    by_task: dict[str, dict[str, TaskFacts]] = {}
    for run in runs:
        for task in run.facts.tasks:
            by_task.setdefault(task.name, {})[run.name] = task
    reasons = {name: _difference(having, runs) for name, having in by_task.items()}
    shared, names = [name for name in reasons if not reasons[name]], ", ".join(r.name for r in runs)
    if not shared:
        name, reason = next(iter(reasons.items()))
        raise UserError(
            f"The runs share no task with the same items ({name!r}: {reason}): expected at least "
            "one; make the runs again with the same --task, --limit, --seed and few-shot examples."
        )
    restricted = []
    for run in runs:
        kept = tuple(task for task in run.facts.tasks if task.name in shared)
        results = []
        for result in run.results:
            own = {name: getattr(result, name) for name in result.tables}
            own = {name: table.loc[table["task"].isin(shared)] for name, table in own.items()}
            results.append(type(result)(**own, facts=result.facts))  # type: ignore[call-arg]
        facts = run.facts.model_copy(update={"tasks": kept})
        restricted.append(replace(run, facts=facts, results=tuple(results)))
    return restricted, [
        exclusion_row(names, reason, task=name,
                 capability=next(iter(by_task[name].values())).capability)
        for name, reason in reasons.items() if reason
    ]  # fmt: skip


def _difference(having: Mapping[str, TaskFacts], runs: Sequence[SavedRun]) -> str:
    """Difference of a task between runs; empty if there is none."""
    lacking = [run.name for run in runs if run.name not in having]
    if lacking:
        return f"not in {', '.join(lacking)}"
    if len({task.hash for task in having.values()}) > 1:
        differing = "; ".join(
            f"{task.n_items} items, {task.n_fewshot} few-shot, hash {task.hash[:12]} in {run}"
            for run, task in having.items()
        )
        return f"the items differ: {differing}"
    levels = {tuple(sorted(task.chance.items())) for task in having.values()}
    return "the accuracy by guessing differs" if len(levels) > 1 else ""


def shared_change(runs: Sequence[SavedRun]) -> tuple[str, str] | None:
    """The kind and site of single-layer changes that all runs have, skipped layers first.

    A run without signal changed no layer: it leaves the choice to the others.
    """
    every = {run.name: _single_changes(run.ablation) for run in runs if not _is_silent(run)}
    shared = [c for c in next(iter(every.values()), []) if all(c in own for own in every.values())]
    if not shared and all(every.values()) and every:
        each = "; ".join(
            f"{', '.join(map(' '.join, changes))} in {name}" for name, changes in every.items()
        )
        raise UserError(
            f"The metric differs, for layers were changed in different ways ({each}): expected "
            "one way that all runs have; run `layerwise ablate` with the same --kind and --site."
        )
    return min(shared, key=lambda change: change != ("skip", "layer"), default=None)


def _is_silent(run: SavedRun) -> bool:
    """True if an ablation changed no layer because no task has signal."""
    if run.ablation is None or _single_changes(run.ablation):
        return False
    return not bool(run.ablation.signal()["signal"].any())


def _single_changes(ablation: AblationResult | None) -> list[tuple[str, str]]:
    """Kinds and sites of changes of whole layers or of a part, one layer at a time."""
    if ablation is None:
        return []
    table = ablation.records
    single = table["head"].isna() & table["layer"].notna() & table["site"].ne("layers")
    changes = table.loc[single, ["kind", "site"]].drop_duplicates().to_numpy()
    return [(str(kind), str(site)) for kind, site in changes]
