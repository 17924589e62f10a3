"""The tables of a series of checkpoints: accuracy, layers and depths by step, onsets and moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.comparison.runs import (
    RunFacts,
    SavedRun,
    on_shared_tasks,
    refuse_other_prompts,
    refuse_same_model,
    shapes_note,
    shared_change,
)
from layerwise.analyses.emergence.api import collect_curves
from layerwise.analyses.emergence.summaries import summarise_curves, summary_row
from layerwise.analyses.measurements import with_curves
from layerwise.errors import UserError, count_noun
from layerwise.ground.layer_names import layer_axes
from layerwise.presentation.rows import numbers, rows
from layerwise.stats.cells import BASELINES, Cell, cells
from layerwise.stats.depth.layer_curves import Sampling
from layerwise.stats.depth.onset import Excess, depth_trend, onset
from layerwise.stats.effects import ALPHA, signal_table
from layerwise.stats.families.estimate import finite_or_none
from layerwise.stats.families.multiplicity import correct_family, correct_rows
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.stats.signals.signal import LEVEL
from layerwise.storage.base import Result
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.parquet import conform, frame
from layerwise.storage.places import SERIES_PAGE
from layerwise.storage.provenance import StampedModel
from layerwise.storage.schemas import SCHEMAS

LAYERS = ("skip", "layer")


class SeriesFacts(StampedModel):
    """Everything needed to repeat the joining of a series."""

    seed: int = Field(description="The seed of the bootstraps over items.")
    smallest_gain: float = Field(
        description="Accuracy above the floor from which on a capability is there."
    )
    smallest_loss: float = Field(description="Smallest loss of accuracy that is of interest.")
    smallest_depth: float = Field(description="Smallest move that is of interest, in layers.")
    steps: tuple[int, ...] = Field(description="The checkpoints' steps, in order.")
    runs: tuple[RunFacts, ...] = Field(description="The runs of the checkpoints, in this order.")
    files: dict[str, str] = Field(
        default={},
        description="In training.json: SHA-256 of each table by name, and under its own name "
        "that of all else that it says.",
    )


FOLDER = JoinedFolder(
    "training", SeriesFacts, SERIES_PAGE, "a folder for the series",
    ("layerwise profile-training",
     "give the same command again, which goes on from the runs of the checkpoints"),
)  # fmt: skip


def n_layer_tests(accuracy: pd.DataFrame, layers: pd.DataFrame) -> int:
    """Number of tests of single layers in a series, those of tasks without signal as well."""
    return len(accuracy) * len(layers["layer"].unique())


@dataclass(frozen=True)
class Series:
    """The runs of a series."""

    steps: tuple[int, ...]  # of the checkpoints, in order
    runs: tuple[SavedRun, ...]  # of each
    change: tuple[str, str]  # kind and site of the changes of single layers

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.runs[0].facts.model.n_layers

    def ablations(self) -> list[AblationResult]:
        """The ablation of each checkpoint."""
        return [run.ablation for run in self.runs if run.ablation is not None]

    def chance(self, task: str, protocol: str) -> float:
        """Accuracy by guessing."""
        return self.runs[0].facts.chance(task, protocol)

    def cells(self) -> dict[tuple[str, str], list[Cell]]:
        """By task and protocol, the records of each checkpoint."""
        listed = [
            {(c.task, c.protocol): c for c in cells(_records_of_change(each.records, self.change))}
            for each in self.ablations()
        ]
        for step, by_key in zip(self.steps, listed, strict=True):
            if set(by_key) != set(listed[0]):
                differing = sorted(set(by_key) ^ set(listed[0]))[0]
                raise UserError(
                    f"Task {differing[0]!r} under {differing[1]} is in the run of step "
                    f"{self.steps[0]} or in that of step {step}, and not in both: expected the "
                    "same protocols at every step; run them again with the same --protocol."
                )
        return {key: [by_key[key] for by_key in listed] for key in listed[0]}


def refuse_single(n_checkpoints: int) -> None:
    """Raise unless there are two checkpoints or more."""
    if n_checkpoints < 2:
        raise UserError(
            f"A series of {count_noun(n_checkpoints, 'checkpoint')} is none: expected two or more "
            "steps of one model's training; give more, or use `layerwise profile` for one model."
        )


def joined_series(results: Mapping[int, Sequence[Result]]) -> Series:
    """The runs of a series, checked."""
    refuse_single(len(results))
    shared, left_out = on_shared_tasks(checkpoints_of_one_model(results))
    for row in left_out:
        raise UserError(
            f"Task {row['task']!r} does not have the same items at every step "
            f"({row['reason']}): expected the same tasks of all; run them again with the same "
            "--task, --limit, --seed and few-shot examples."
        )
    return Series(tuple(sorted(results)), tuple(shared), shared_change(shared) or LAYERS)


def checkpoints_of_one_model(results: Mapping[int, Sequence[Result]]) -> list[SavedRun]:
    """The runs so far in the order of their steps, of one model each time and never the same."""
    runs: list[SavedRun] = []
    for step in sorted(results):
        curves = with_curves(results[step])
        if not any(isinstance(curve, AblationResult) for curve in curves):
            raise UserError(
                f"The run of step {step} has no ablation: expected layers that were skipped one by "
                "one; run `layerwise profile-training` or `layerwise ablate` with this folder."
            )
        runs.append(SavedRun.from_results(f"step {step}", None, curves))
    refuse_same_model(runs)
    refuse_other_prompts(runs)
    shapes = shapes_note(runs, "at")
    if shapes:
        raise UserError(
            f"These are not checkpoints of one model ({shapes}): expected the same layers and "
            "parameters at every step; leave the others out, or compare them as models with "
            "`layerwise compare`."
        )
    return runs


def _records_of_change(records: pd.DataFrame, change: tuple[str, str]) -> pd.DataFrame:
    """The records of one change of single layers, and those that they are measured by."""
    kind, site = change
    single = (records["kind"] == kind) & (records["site"] == site)
    if "head" in records:
        single &= records["head"].isna()
    return records.loc[single | records["kind"].isin(BASELINES)]


Cells = Mapping[tuple[str, str], Sequence[Cell]]
# Checkpoints with signal that a move is told from: two in either half.
FEWEST_STEPS = 4
_RESAMPLES = 1000  # of depths that are resampled
_KEY = ["task", "protocol"]


def series_tables(
    series: Series, seed: int, smallest_gain: float, interest: SmallestEffects
) -> dict[str, pd.DataFrame]:
    """All tables of a series, by the names of their files without ``training_``."""
    by_task, accuracy = series.cells(), _accuracy(series)
    layers = _layers(series, accuracy)
    onsets = _onsets(series, by_task, accuracy, layers, smallest_gain, interest)
    moves = _moves(series, by_task, accuracy, layers, interest)
    return {
        "accuracy": accuracy,
        "layers": layers,
        "depths": _depths(series, seed),
        "onsets": frame("training_onsets", onsets),
        "moves": frame("training_moves", moves),
    }


def _accuracy(series: Series) -> pd.DataFrame:
    """Intact accuracy with its controls; signal after Holm's correction over the series."""
    tables = [
        signal_table(ablation.records, series.chance).assign(step=step)
        for step, ablation in zip(series.steps, series.ablations(), strict=True)
    ]
    whole = pd.concat(tables, ignore_index=True)
    p = correct_family(numbers(whole, "p"))
    return conform("training_accuracy", whole.assign(p_series=p, signal=p < LEVEL))


def _layers(series: Series, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Cost of each layer at each step; significant after Holm's correction over the series."""
    # Steps without signal count as tests, though nothing is told of them and some layers were not
    # skipped there: the others are, of a model that hardly knows the answers, those at which it
    # was right more often by luck, from which any other answers look like a loss.
    kind, site = series.change
    tables = []
    for step, one in zip(series.steps, series.ablations(), strict=True):
        effects = rows(one.effects(), kind=kind, site=site)
        single = effects.loc[effects["head"].isna() & effects["layer"].notna()]
        tables.append(single.assign(step=step))
    cell = ["step", *_KEY]
    whole = pd.concat(tables, ignore_index=True).drop(columns="signal")
    whole = whole.merge(accuracy[[*cell, "signal"]], on=cell, how="left")
    able = whole["signal"].to_numpy(dtype=bool)
    p = np.where(able, correct_family(numbers(whole, "p"), n_layer_tests(accuracy, whole)), np.nan)
    lost = able & (np.nan_to_num(p, nan=1.0) < ALPHA) & (numbers(whole, "acc_diff") > 0)
    return conform("training_layers", whole.assign(p_series=p, significant=lost))


def _depths(series: Series, seed: int) -> pd.DataFrame:
    """Depths of capabilities at each step, as ``emergence`` has them."""
    axes = layer_axes(series.runs[0].facts.model.n_encoder_layers, series.n_layers)
    sampling = Sampling(seed, _RESAMPLES, series.n_layers)
    rows, names = [], SCHEMAS["training_depths"].names
    for step, run in zip(series.steps, series.runs, strict=True):
        summaries, _ = summarise_curves(list(collect_curves(run.results, sampling)), axes, sampling)
        for one in summaries:
            row = summary_row(one, axes[one.axis])
            rows.append({"step": step} | {name: row[name] for name in names if name in row})
    return frame("training_depths", rows)


def checkpoint_excesses(cells: Sequence[Cell], chance: float) -> list[Excess]:
    """Right answers of each checkpoint beyond chance, other items' questions, and no layers."""
    right = np.stack([np.asarray(cell.intact, dtype=float) for cell in cells], axis=1)
    clusters = cells[0].clusters
    excesses = [Excess(right - chance, clusters)]
    blind = [cell.blind for cell in cells if cell.blind is not None]
    if len(blind) == len(cells):
        with_controls = np.all([draw.n_asked > 0 for draw in blind], axis=0)
        if with_controls.any():
            rates = np.stack([draw.right / np.maximum(draw.n_asked, 1) for draw in blind], axis=1)
            excesses.append(
                Excess((right - rates)[with_controls], clusters.select_items(with_controls))
            )
    if any(cell.no_layers is not None for cell in cells):
        unknown = np.full(len(right), np.nan)
        without = [unknown if cell.no_layers is None else cell.no_layers for cell in cells]
        excesses.append(Excess(right - np.stack(without, axis=1), clusters))
    return excesses


def _onsets(
    series: Series,
    by_task: Cells,
    accuracy: pd.DataFrame,
    layers: pd.DataFrame,
    smallest_gain: float,
    interest: SmallestEffects,
) -> list[dict[str, Any]]:
    onsets = []
    for (task, protocol), of_steps in by_task.items():
        p = numbers(rows(accuracy, task=task, protocol=protocol).sort_values("step"), "p")
        excess = checkpoint_excesses(of_steps, series.chance(task, protocol))
        when = onset(excess, p, smallest_gain, ALPHA / len(by_task))
        last = min(1.0, float(p[-1]) * len(by_task))
        row = _cell_columns(of_steps[0], series.steps)
        row |= {"p": p[-1], "p_corrected": last, "appears": when is not None}
        if when is not None:
            places = {"onset": when.estimate, "low": when.low, "high": when.high}
            row |= {name: series.steps[place] for name, place in places.items()}
            row |= _needed_layers(rows(layers, task=task, protocol=protocol), interest)
        onsets.append(row)
    return onsets


def _cell_columns(cell: Cell, steps: Sequence[int]) -> dict[str, Any]:
    return {
        "task": cell.task, "capability": cell.capability, "protocol": cell.protocol,
        "n_steps": len(steps), "n_items": len(cell.intact), "n_clusters": cell.clusters.n,
    }  # fmt: skip


def _needed_layers(of_step: pd.DataFrame, interest: SmallestEffects) -> dict[str, Any]:
    """The layers that are needed where any is known to be for the first time, and the last."""
    sure = of_step.loc[
        of_step["significant"] & (numbers(of_step, "acc_diff") > interest.loss - 1e-9)
    ]
    if sure.empty:
        return {}
    ends = {"first": int(sure["step"].min()), "last": int(sure["step"].max())}
    listed = {name: sorted(map(int, rows(sure, step=step)["layer"])) for name, step in ends.items()}
    return {
        "layers_step": ends["first"], "layers_first": listed["first"],
        "layers_last_step": ends["last"], "layers_last": listed["last"],
    }  # fmt: skip


def _moves(
    series: Series,
    by_task: Cells,
    accuracy: pd.DataFrame,
    layers: pd.DataFrame,
    interest: SmallestEffects,
) -> list[dict[str, Any]]:
    """Change of depth of what is needed in the later half of the checkpoints with signal."""
    moves = []
    for (task, protocol), of_steps in by_task.items():
        signal = set(rows(accuracy, task=task, protocol=protocol, signal=True)["step"])
        chosen = {
            step: cell
            for step, cell in zip(series.steps, of_steps, strict=True)
            if step in signal and len(cell.interventions) == series.n_layers
        }
        sure = set(rows(layers, task=task, protocol=protocol, significant=True)["step"])
        steps, half = list(chosen), len(chosen) // 2
        # Enough steps, and some layer is needed in the earlier and in the later half.
        if len(steps) < FEWEST_STEPS or not (sure & set(steps[:half]) and sure & set(steps[half:])):
            continue
        later = (np.arange(len(steps)) >= half).astype(float)
        lost = np.stack([cell.change for cell in chosen.values()], axis=1)
        trend = depth_trend(lost, later, of_steps[0].clusters)
        if trend is not None:
            moves.append(_cell_columns(of_steps[0], steps) | {
                "first_step": steps[0], "last_step": steps[-1], "layer_early": trend.first,
                "layer_late": trend.first + trend.change, "change": trend.change,
                "low": finite_or_none(trend.low), "high": finite_or_none(trend.high), "p": trend.p,
            })  # fmt: skip
    for row in (moves := correct_rows(moves)):
        away = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
        far = abs(row["change"]) > interest.depth - 1e-9
        row["significant"] = bool(row["p_holm"] < ALPHA and away and far)
    return moves
