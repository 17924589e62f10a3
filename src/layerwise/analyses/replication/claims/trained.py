"""A model beside one trained from it: Song et al. 2025 on distillation, and Nepal et al. 2025."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerwise.presentation.wording import few_layers
from layerwise.stats.cells import Cell
from layerwise.stats.contrasts import (
    centre_contrast,
    unpaired_difference,
)
from layerwise.stats.families.rank_correlation import rank_correlation, unrelated_p
from layerwise.stats.inference import rank_correlations
from layerwise.stats.items.clusters import sample_and_resamples
from layerwise.stats.pools import clusters_of_cells, match_protocols
from layerwise.stats.resampling import generator, resample_counts

from ..verdicts.claim import (
    FULL,
    SMALL,
    ClaimTest,
    Needs,
    NoTest,
    Number,
    Outcome,
    PublishedClaim,
    Source,
    Verdict,
    benchmarks,
    bound_p_values,
)
from ..verdicts.depth import ONE_LAYER, all_crossings, crossing_p, needed_layers
from ..verdicts.evidence import Evidence
from .song import SONG

REASONING = "reasoning"
SMALLEST_GAIN = 0.05  # accuracy that matters, fixed beforehand
SAME, OTHER = 0.7, 0.3  # rank correlations of "the same layers" and of "other layers"
N_RESAMPLES = 2000
_MOVES, _CARRIES = "where reasoning sits", "single layers that carry it"
_NATS = "continuation"
NEPAL = Source("Nepal et al. 2025", "", "arXiv:2506.22638")
_NO_SIGNAL = "Not both models are clearly better than chance at reasoning."


def distillation_moves_reasoning(evidence: Evidence) -> list[Outcome]:
    """song-8: the first part compares the two models, the second exchanges their layers."""
    return [_depth_difference(evidence), _single_layers_carry(evidence)]


def _depth_difference(evidence: Evidence) -> Outcome:
    """Mean layer of what reasoning loses, of the trained model minus the base, and crossings."""
    trained = evidence.trained
    cells = [] if trained is None else [one.cells_of_capability(REASONING)
                                        for one in (evidence, trained)]  # fmt: skip
    if trained is None or not all(cells):
        return NoTest(_MOVES, Verdict.NO_SIGNAL, _NO_SIGNAL)
    compared = match_protocols(evidence.pool(cells[0]), trained.pool(cells[1]))
    if compared is None:
        return NoTest(_MOVES, Verdict.NO_SIGNAL, _NO_SIGNAL)
    base, second = compared
    # Layers that a model needs for everything say nothing of where reasoning sits.
    shared = _common_needed_layers(evidence) & _common_needed_layers(trained)
    centres = [centre_contrast(pool, shared) for pool in compared]
    note = f"All capabilities need {few_layers(sorted(shared))}, left out." if shared else ""
    if centres[0] is None or centres[1] is None:
        return NoTest(_MOVES, Verdict.NO_SIGNAL, f"{note} Nothing else is lost.".strip())
    gap = unpaired_difference(centres[1], centres[0])
    crossing = crossing_p(all_crossings(second, base), deeper=None)
    apart = gap.p_either_side(ONE_LAYER)
    numbers = (
        Number.from_contrast("base", centres[0]),
        Number.from_contrast("trained", centres[1]),
    )
    return ClaimTest(
        _MOVES, "layers", "deeper in the trained model, by the mean layer of what reasoning loses",
        Number.from_contrast("trained minus base", gap), max(apart, crossing),
        gap.p_within(ONE_LAYER), gap.error, numbers, note,
    )  # fmt: skip


def _common_needed_layers(evidence: Evidence) -> set[int]:
    """Layers that every capability that was asked is shown to need; none of a single one."""
    capabilities = sorted({cell.capability for cell in evidence.cells.values()})
    needed = [needed_layers(evidence.pool(evidence.cells_of_capability(c))) for c in capabilities]
    return set.intersection(*needed) if len(needed) > 1 else set()


def _single_layers_carry(evidence: Evidence) -> Outcome:
    """Gain of the base by a single layer of the trained model, where that is better."""
    moved = evidence.tables.get("moved", pd.DataFrame())
    if not moved.empty:
        brings = (moved["direction"] == "brings") & (moved["host"] == "base")
        moved = moved.loc[brings & (moved["capability"] == REASONING)]
    if moved.empty:
        why = "The trained model is not clearly better at reasoning than the base."
        return NoTest(_CARRIES, Verdict.NO_SIGNAL, why)
    numbers = [
        Number(f"{row['task']}, layer {int(row['layer'])}", 100 * row["moved"],
               100 * row["moved_low"], 100 * row["moved_high"], int(row["n_items"]))
        for row in moved.to_dict("records")
    ]  # fmt: skip
    gain, p = (moved[name].to_numpy(dtype=float) for name in ("moved", "p"))
    one_sided = np.where(gain > 0, p / 2, 1.0)
    below = [bound_p_values(number, 100 * SMALLEST_GAIN)[0] for number in numbers]
    best = int(np.lexsort((-gain, one_sided))[0])
    row, number = moved.iloc[best], numbers[best]
    effect = f"gained by the base with layer {int(row['layer'])} of the trained model"
    return ClaimTest(
        _CARRIES, "accuracy points", effect, number,
        min(1.0, float(one_sided.min() * len(moved))), float(np.nan_to_num(below, nan=1.0).max()),
    )  # fmt: skip


def same_layers_after_training(evidence: Evidence) -> list[Outcome]:
    """nepal-1."""
    trained = evidence.trained
    pairs = [] if trained is None else [
        (cell, trained.cells[key])
        for key, cell in sorted(evidence.cells.items())
        if cell.capability == REASONING and key[1] == _NATS and key in trained.cells
    ]  # fmt: skip
    if not pairs:
        return [NoTest("", Verdict.NO_SIGNAL, _NO_SIGNAL)]
    models = [list(cells) for cells in zip(*pairs, strict=True)]
    rho, low, high, n = _rank_agreement(*models)
    number = Number("base with trained", rho, low, high, n)
    _, is_more = bound_p_values(number, SAME)
    is_less, _ = bound_p_values(number, OTHER)
    return [
        ClaimTest(
            "", "rank correlation", "of the nats that each layer costs before and after training",
            number, is_more, max(is_less, *map(_p_of_no_order, models)),
        )
    ]  # fmt: skip


def _rank_agreement(
    base: Sequence[Cell], trained: Sequence[Cell]
) -> tuple[float, float, float, int]:
    """Spearman's correlation over layers of the nats lost in two models, with its interval."""
    clusters = clusters_of_cells(base)
    counts = resample_counts(
        sample_and_resamples(clusters.n, N_RESAMPLES, generator(0, "layers after training"))
    )
    one, other = (
        clusters.means_of_counts(np.concatenate([cell.nats for cell in cells]), counts)
        for cells in (base, trained)
    )
    found = rank_correlation(one, other, clusters.n, generator(0, "rank agreement"))
    return found.estimate, found.low, found.high, clusters.n


def _p_of_no_order(cells: Sequence[Cell]) -> float:
    """One-sided p-value of "layers cost alike", by whether two halves of the items agree.

    Where they do, a low correlation with another model says only that nothing is to be ranked.
    """
    first = clusters_of_cells(cells).codes % 2 == 0
    nats = np.concatenate([cell.nats for cell in cells])
    if first.all():
        return 1.0
    halves = nats[first].mean(axis=0), nats[~first].mean(axis=0)
    agree = rank_correlations(halves[0][None], halves[1][None])[0] > 0
    return unrelated_p(*halves, generator(0, "halves")) / 2 if agree else 1.0


_TASKS = {SMALL: ("arithmetic", "word-problems"), FULL: benchmarks("gsm8k")}
_DIFFERS = "The models and the tasks are other ones. Layers are skipped."

CLAIMS = (
    PublishedClaim(
        "song-8", SONG, "abstract; code",
        "Distillation moves where reasoning sits, and single layers carry it into the base.",
        "DeepSeek distillates beside their bases; single layers were copied into the base.",
        "reasoning sits more than one layer apart, and layers of the two models cross; a single "
        "layer of the trained model makes the base better",
        "the difference is inside one layer; a gain of 5 points is excluded for every layer",
        f"{_DIFFERS} nepal-1 says the opposite of the first part.",
        Needs({SMALL: (*_TASKS[SMALL], "facts"), FULL: benchmarks(
            "gsm8k", "openbookqa")}, (_NATS, "generate"),
              also=("trained", "transplant")),
        distillation_moves_reasoning,
    ),
    PublishedClaim(
        "nepal-1", NEPAL, "abstract",
        "The layers that matter for mathematics stay the same when a model is trained further.",
        "Llama-3.1-8B and Qwen2.5-7B after instruction tuning, distillation and reinforcement "
        "learning; layers set to zero.",
        "the rank correlation of what each layer costs before and after is shown to be above 0.7",
        "it is shown to be below 0.3, and in each model two halves of the items agree",
        f"{_DIFFERS} One trained model is compared.",
        Needs(_TASKS, (_NATS,), also=("trained",)), same_layers_after_training,
    ),
)  # fmt: skip
