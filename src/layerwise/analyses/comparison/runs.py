"""Saved runs made ready to be compared: what they share, and what is refused or left out.

Nothing is computed from answers here; a run is read from its folder, and no model is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.loading import load_results
from layerwise.analyses.registry import curves_in_words, with_curves
from layerwise.errors import UserError, counted
from layerwise.storage.base import Result
from layerwise.storage.provenance import Facts, TaskFacts, join_facts


@dataclass(frozen=True)
class SavedRun:
    """A run as it is compared.

    Attributes:
        name: what it is called; unique among the runs.
        group: the group that it belongs to; None if there are no groups.
        facts: what is needed to repeat it.
        results: its results of the kinds that can be compared.
    """

    name: str
    group: str | None
    facts: Facts
    results: tuple[Result, ...]

    @property
    def ablation(self) -> AblationResult | None:
        """Its ablation, if it has one."""
        return next((r for r in self.results if isinstance(r, AblationResult)), None)


def left_out(runs: str, reason: str, **what: str) -> dict[str, Any]:
    """A row of ``comparison_left_out.parquet``."""
    return {"runs": runs, "reason": reason} | what


def saved_runs(folders: Sequence[Path], groups: Sequence[str | None]) -> list[SavedRun]:
    """Read the folders."""
    names = _names(folders)
    return [_read(*each) for each in zip(folders, names, groups, strict=True)]


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


def _read(folder: Path, name: str, group: str | None) -> SavedRun:
    results = with_curves(load_results(folder))
    if not results:
        raise UserError(
            f"The run in {folder} has nothing to compare: expected an {curves_in_words()}; run "
            "one of these, or a profile, with this folder."
        )
    return SavedRun(name, group, join_facts([r.facts for r in results]), tuple(results))


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
        of_group = [run for run in runs if run.group == group]
        shapes = {_shape(run.facts): run.name for run in of_group}
        if len(shapes) > 1:
            listed = "; ".join(f"{shape} in {name}" for shape, name in shapes.items())
            raise UserError(
                f"Group {group!r} holds models of different shape ({listed}): expected training "
                "seeds of one architecture; put the others into a group of their own."
            )


def _shape(facts: Facts) -> str:
    model = facts.model
    stacks = f"{model.n_encoder_layers} of the encoder, " if model.n_encoder_layers else ""
    return f"{counted(model.n_layers, 'layer')}, {stacks}{model.n_parameters} parameters"


def on_shared_tasks(runs: Sequence[SavedRun]) -> tuple[list[SavedRun], list[dict[str, Any]]]:
    """The runs with the tasks alone that all of them asked by the very same items."""
    names = dict.fromkeys(task.name for run in runs for task in run.facts.tasks)
    by_task = {name: {r.name: t for r in runs for t in r.facts.tasks if t.name == name}
             for name in names}  # fmt: skip
    reasons = {name: _difference(having, runs) for name, having in by_task.items()}
    shared = [name for name, reason in reasons.items() if reason is None]
    rows = [
        left_out(", ".join(r.name for r in runs), reason, task=name,
                 capability=next(iter(by_task[name].values())).capability)
        for name, reason in reasons.items()
        if reason is not None
    ]  # fmt: skip
    if not shared:
        raise UserError(
            f"The runs share no task with the same items ({_first(reasons)}): expected at least "
            "one; make the runs again with the same --task, --limit, --seed and few-shot examples."
        )
    return [_restricted(run, shared) for run in runs], rows


def _difference(having: Mapping[str, TaskFacts], runs: Sequence[SavedRun]) -> str | None:
    """How a task differs between runs; None if it does not."""
    lacking = [run.name for run in runs if run.name not in having]
    if lacking:
        return f"not in {', '.join(lacking)}"
    if len({task.hash for task in having.values()}) > 1:
        differing = "; ".join(
            f"{task.n_items} items, {task.n_fewshot} few-shot, hash {task.hash[:12]} in {run}"
            for run, task in having.items()
        )
        return f"the items differ: {differing}"
    levels = {str(dict(sorted(task.chance.items()))): run for run, task in having.items()}
    return None if len(levels) == 1 else "the accuracy by guessing differs"


def _first(reasons: Mapping[str, str | None]) -> str:
    name, reason = next(iter(reasons.items()))
    return f"{name!r}: {reason}"


def _restricted(run: SavedRun, tasks: Sequence[str]) -> SavedRun:
    results = [_of_tasks(result, tasks) for result in run.results]
    kept = tuple(task for task in run.facts.tasks if task.name in tasks)
    return replace(run, facts=run.facts.model_copy(update={"tasks": kept}), results=tuple(results))


def _of_tasks(result: Result, tasks: Sequence[str]) -> Result:
    fields: dict[str, Any] = {"facts": result.facts}
    for name in result.tables:
        table: pd.DataFrame = getattr(result, name)
        fields[name] = table.loc[table["task"].isin(tasks)]
    return type(result)(**fields)


def shared_change(runs: Sequence[SavedRun]) -> tuple[str, str] | None:
    """The kind and site of single-layer changes that all runs have, skipped layers first."""
    listed = {run.name: _changes(run) for run in runs}
    shared = [c for c in next(iter(listed.values())) if all(c in own for own in listed.values())]
    if shared:
        return min(shared, key=lambda change: change != ("skip", "layer"))
    if all(listed.values()):
        told = "; ".join(
            f"{_changes_in_words(changes)} in {name}" for name, changes in listed.items()
        )
        raise UserError(
            f"The metric differs, for layers were changed in different ways ({told}): expected "
            "one way that all runs have; run `layerwise ablate` with the same --kind and --site."
        )
    return None


def _changes(run: SavedRun) -> list[tuple[str, str]]:
    """Changes of whole layers or of a part, one layer at a time."""
    if run.ablation is None:
        return []
    table = run.ablation.records
    single = table["head"].isna() & table["layer"].notna() & table["site"].ne("layers")
    listed = table.loc[single, ["kind", "site"]].drop_duplicates()
    return [(str(kind), str(site)) for kind, site in listed.to_numpy()]


def _changes_in_words(changes: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{kind} {site}" for kind, site in changes)
