"""Result tables as rows of text for a page: which columns, in what words, in what order.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.attribution.tables import HEADS, SUBLAYERS
from layerwise.analyses.heads.tables import NATS, SCORES
from layerwise.presentation.naming import name_intervention, name_layer, stacks
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import (
    HEAD_WORDS,
    SUBLAYER_WORDS,
    layer_ranges,
    number,
)
from layerwise.report.run import Run

_TOP, _MOST, _ATTRIBUTED = 15, 2000, 200
_ATTENTION = {"z": "", "cross_z": ", cross-attention"}
_MODELS = ("intact", "predicted", "measured")


_EFFECT = (
    "task", "protocol", "intervention", "n", "accuracy (%)", "change (points)", "share lost (%)",
    "gold log-prob. lost (nats)",
)  # fmt: skip


def effects_tables(run: Run) -> list[Table]:
    """The largest effects, significant ones first, and all of them on demand."""
    if run.effects is None:
        return []
    cells, n, note = _effects(run.effects, "p_holm")
    columns = (*_EFFECT, "p (Holm)", "significant")
    top = Table(f"Largest effects ({min(_TOP, len(cells))} of {n})", columns, cells[:_TOP])
    return [top, Table(f"All effects ({n})", columns, cells, True, note)]


def head_effects_tables(run: Run) -> list[Table]:
    """The heads with the largest effects, significant ones first, and all of them on demand."""
    effects = pd.DataFrame() if run.head_effects is None else rows(run.head_effects, signal=True)
    if effects.empty:
        return []
    cells, n, note = _effects(effects, "p_bh")
    columns = (*_EFFECT, "p (BH)", "significant")
    top = Table(f"Strongest heads ({min(_TOP, len(cells))} of {n})", columns, cells[:_TOP])
    return [top, Table(f"All effects of heads, tasks with signal ({n})", columns, cells, True,
                       note)]  # fmt: skip


def _effects(effects: pd.DataFrame, p: str) -> tuple[list[list[str]], int, str]:
    """Effects as text, strongest first, how many there are, and where the others are."""
    ranked = effects.sort_values(
        by=["significant", "share_lost"], ascending=False, kind="stable", na_position="last"
    )
    cells = [_effect(row, p) for row in records(ranked.head(_MOST))]
    left = len(ranked) - len(cells)
    return cells, len(ranked), f"The other {left} rows are in effects.parquet." if left else ""


def _effect(row: dict[str, Any], p: str) -> list[str]:
    accuracy = f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}"
    if row["signal"]:
        share, sure = bounds(row, "share_lost", "share_low", "share_high", 100), row["significant"]
    else:
        share, sure = "no signal", False
    return [
        row["task"], row["protocol"], name_intervention(row["intervention"]), str(row["n_items"]),
        accuracy,
        bounds(row, "acc_diff", "acc_diff_low", "acc_diff_high", -100), share,
        bounds(row, "nats", "nats_low", "nats_high", 1, 2), f"{row[p]:.3g}",
        "yes" if sure else "no",
    ]  # fmt: skip


def signal_table(run: Run, signal: bool) -> list[Table]:
    """The intact model's accuracy in task-protocol pairs with signal, or without."""
    if run.signal is None:
        return []
    found = records(rows(run.signal, signal=signal))
    columns = ("task", "capability", "protocol", "n", "accuracy (%)", "chance (%)")
    cells = [
        [
            row["task"], row["capability"], row["protocol"], str(row["n_items"]),
            bounds(row, "accuracy", "low", "high", 100), number(100 * row["chance"]),
        ]
        for row in found
    ]  # fmt: skip
    title = "Intact model, tasks with signal" if signal else "Not shown to be above chance"
    return [Table(title, columns, cells, signal)] if cells else []


def settling_tables(run: Run) -> list[Table]:
    """Tests of prediction depth between capabilities."""
    if run.prediction_depth_comparisons is None:
        return []
    columns = (
        "lens", "protocol", "first", "second", "n", "depth of second minus first",
        "an item of second settles later (%)", "p (Holm)", "significant",
    )  # fmt: skip
    cells = [
        [
            row["lens"], row["protocol"], row["first"], row["second"],
            f"{row['n_first']}, {row['n_second']}", bounds(row, "difference", "low", "high", 1, 2),
            number(100 * row["later"]), f"{row['p_holm']:.3g}",
            "yes" if row["significant"] else "no",
        ]
        for row in records(run.prediction_depth_comparisons)
    ]  # fmt: skip
    return [Table(f"Prediction depth, capabilities compared ({len(cells)})", columns, cells, True)]


def patching_table(run: Run) -> list[Table]:
    """The patched cells that recover most, and all of them on demand."""
    if run.patching is None:
        return []
    ranked = run.patching.sort_values(by="recovered", ascending=False, kind="stable")
    columns = (
        "task", "direction", "site", "layer", "head", "position", "pairs",
        "recovered or lost (%)", "p (BH)",
    )  # fmt: skip
    cells = [
        [
            row["task"], row["direction"], row["site"], name_layer(row["layer"]),
            "–" if pd.isna(row["head"]) else str(row["head"]), row["pos_label"],
            str(row["n_items"]), bounds(row, "recovered", "recovered_low", "recovered_high", 100),
            f"{row['p_bh']:.3g}",
        ]
        for row in records(ranked.head(_MOST))
    ]  # fmt: skip
    note = f"The other {len(ranked) - _MOST} rows follow from patching.parquet."
    note = note if len(ranked) > _MOST else ""
    return [Table(f"Patched cells by share ({len(ranked)})", columns, cells, True, note)]


def attribution_tables(run: Run) -> list[Table]:
    """The parts that add most to the logit difference, of tasks with signal."""
    if run.attribution is None:
        return []
    found = rows(run.attribution, metric="logit_diff", component=[*SUBLAYERS, *HEADS])
    silent = sorted(set(rows(found, signal=False)["task"]))
    mine = rows(found, signal=True)
    ranked = mine.iloc[(-abs(numbers(mine, "value"))).argsort(kind="stable")]
    columns = ("task", "protocol", "part", "n", "adds (nats)", "p (corrected)", "significant")
    cells = [
        [
            row["task"], row["protocol"], _part(row), str(row["n_items"]),
            bounds(row, "value", "low", "high", 1, 2), f"{row['p_adjusted']:.3g}",
            "yes" if row["significant"] else "no",
        ]
        for row in records(ranked.head(_ATTRIBUTED))
    ]  # fmt: skip
    note = f"The other {len(ranked) - len(cells)} are in attribution_summary.parquet."
    note = note if len(ranked) > len(cells) else ""
    if stacks().n_encoder:
        note = f"{note} What the encoder's parts add is within what cross-attention adds.".strip()
    if silent:
        note = f"{note} No signal, so left out: {', '.join(silent)}.".strip()
    title = f"Largest contributions to the logit difference ({len(cells)} of {len(ranked)})"
    return [Table(title, columns, cells, True, note)]


def _part(row: dict[str, Any]) -> str:
    place = name_layer(row["layer"]) + (f".{row['head']}" if row["component"] in HEADS else "")
    return f"{(SUBLAYER_WORDS | HEAD_WORDS)[row['component']]} {place}"


def heads_table(run: Run) -> list[Table]:
    """The heads with the highest prefix-matching scores."""
    if run.heads is None:
        return []
    names = [name for name in SCORES if np.isfinite(numbers(run.heads, name)).any()]
    ranked = run.heads.sort_values(by="prefix_matching", ascending=False, kind="stable")
    cells = [
        [f"{name_layer(row['layer'])}.{row['head']}{_ATTENTION[row['site']]}"]
        + [bounds(row, name, f"{name}_low", f"{name}_high", 1, 2) for name in names]
        + ["yes" if row["induction_head"] else "no"]
        for row in records(ranked.head(_ATTRIBUTED))
    ]
    words = (name.replace("_", " ") + (" (nats)" if name == NATS else "") for name in names)
    columns = ("head", *words, "induction head")
    title = f"Heads by prefix matching ({len(cells)} of {len(ranked)})"
    return [Table(title, columns, cells, True)]


def paths_table(run: Run) -> list[Table]:
    """The direct paths by the size of what they carry."""
    if run.paths is None:
        return []
    ranked = run.paths.iloc[(-abs(numbers(run.paths, "recovered"))).argsort(kind="stable")]
    columns = ("task", "direction", "sender", "receiver", "pairs", "share (%)", "p (BH)")
    cells = [
        [
            row["task"], row["direction"], row["sender"], row["receiver"], str(row["n_items"]),
            bounds(row, "recovered", "recovered_low", "recovered_high", 100),
            f"{row['p_bh']:.3g}",
        ]
        for row in records(ranked.head(_MOST))
    ]  # fmt: skip
    note = f"The other {len(ranked) - _MOST} rows are in path_effects.parquet."
    note = note if len(ranked) > _MOST else ""
    return [Table(f"Direct paths by share ({len(ranked)})", columns, cells, True, note)]


def agreement_shown(run: Run) -> list[Table]:
    """How gradient estimates agree with true patches."""
    if run.agreement is None:
        return []
    columns = (
        "task", "direction", "site", "cells", "pairs", "rank correlation", "median error (nats)",
    )  # fmt: skip
    cells = [
        [
            row["task"], row["direction"], row["site"], str(row["n_cells"]), str(row["n_items"]),
            bounds(row, "spearman", "spearman_low", "spearman_high", 1, 2),
            number(row["median_error"], 3),
        ]
        for row in records(run.agreement)
    ]  # fmt: skip
    return [Table("Agreement of estimates and true patches", columns, cells)]


def removal_table(run: Run) -> list[Table]:
    """What each step of a removal left out, and what that cost."""
    if run.removal is None:
        return []
    columns = (
        "order", "task", "protocol", "items", "n", "layers removed", "which", "accuracy (%)",
        "change (points)", "p (Holm)", "significant",
    )  # fmt: skip
    cells = [
        [
            *(row[name] for name in ("by", "task", "protocol", "split")),
            str(row["n_items"]), str(row["step"]),
            ", ".join(map(name_layer, row["layers"])),
            f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}",
            bounds(row, "acc_diff", "acc_diff_low", "acc_diff_high", -100),
            f"{row['p_holm']:.3g}", "yes" if row["significant"] else "no",
        ]
        for row in records(run.removal)
    ]  # fmt: skip
    return [Table(f"Steps of the removal ({len(cells)})", columns, cells, True)]


def _of_stack(row: dict[str, Any]) -> str:
    """How many layers a row is about, and of which stack if of one alone."""
    return str(row["n_layers"]) + ("" if pd.isna(row["stack"]) else f" ({row['stack']})")


def similarity_tables(run: Run) -> list[Table]:
    """Block influence by layer, and how well similarity predicts what skipping costs."""
    found = []
    if run.prediction is not None:
        columns = (
            "capability", "protocol", "measure", "effect", "layers", "n", "rank correlation",
            "p (Holm)",
        )  # fmt: skip
        cells = [
            [
                row["capability"], row["protocol"], row["predictor"], row["effect"],
                _of_stack(row), str(row["n_items"]), bounds(row, "rho", "low", "high", 1, 2),
                f"{row['p_holm']:.3g}",
            ]
            for row in records(run.prediction)
        ]  # fmt: skip
        found.append(Table(f"Similarity against effects ({len(cells)})", columns, cells, True))
    if run.influence is not None:
        columns = ("task", "protocol", "layer", "n", "block influence")
        cells = [
            [
                row["task"], row["protocol"], name_layer(row["layer"]), str(row["n_items"]),
                bounds(row, "influence", "low", "high", 1, 3),
            ]
            for row in records(run.influence)
        ]  # fmt: skip
        found.append(Table(f"Block influence ({len(cells)})", columns, cells, True))
    return found


def pruning_table(run: Run) -> list[Table]:
    """A written model beside what was predicted of it."""
    if run.pruning is None:
        return []
    columns = (
        "task", "protocol", "n", "accuracy (%): intact", "predicted", "measured",
        "largest difference (nats)", "same texts (%)",
    )  # fmt: skip
    cells = [
        [
            row["task"], row["protocol"], str(row["n_items"]),
            *(number(100 * row[f"{model}_accuracy"]) for model in _MODELS),
            "–" if pd.isna(row["largest_difference"]) else f"{row['largest_difference']:.1g}",
            "–" if pd.isna(row["same_texts"]) else number(100 * row["same_texts"]),
        ]
        for row in records(run.pruning)
    ]  # fmt: skip
    return [Table("Written model, and prediction by skipping its layers", columns, cells)]


def emergence_tables(run: Run) -> list[Table]:
    """Depths, tests of order, and what was left out."""
    depths = [
        [
            row["capability"], row["protocol"], row["method"], row["measure"], row["axis"],
            bounds(row, "estimate", "low", "high", 1, 2),
            bounds(row, "layer", "layer_low", "layer_high", 1, 1),
            _critical(row["layers"]), str(row["n_items"]), row["tasks"],
        ]
        for row in (records(run.emergence) if run.emergence is not None else [])
    ]  # fmt: skip
    columns = (
        "capability", "protocol", "method", "measure", "axis", "relative depth or share",
        "in layers", "critical layers", "n", "tasks",
    )  # fmt: skip
    found = [Table(f"Depths and critical sets ({len(depths)})", columns, depths, True)]
    return [*(found if depths else []), *_order(run), *_left_out(run)]


def _critical(layers: Any) -> str:
    return layer_ranges(layers) if isinstance(layers, list) else "–"


def _order(run: Run) -> list[Table]:
    if run.order is None:
        return []
    columns = (
        "first", "second", "protocol", "method", "measure", "depth of second minus first",
        "p (Holm)",
    )  # fmt: skip
    ranked = run.order.iloc[numbers(run.order, "p_holm").argsort(kind="stable")]
    cells = [
        [
            row["first"], row["second"], row["protocol"], row["method"], row["measure"],
            bounds(row, "difference", "low", "high", 1, 2), f"{row['p_holm']:.3g}",
        ]
        for row in records(ranked)
    ]  # fmt: skip
    return [Table(f"Tests of order ({len(cells)})", columns, cells, True)]


def _left_out(run: Run) -> list[Table]:
    if run.left_out is None:
        return []
    names = ("capability", "task", "protocol", "method", "axis", "reason")
    cells = [
        [str(row[name]) if not pd.isna(row[name]) else "–" for name in names]
        for row in records(run.left_out)
    ]
    return [Table("Left out of the depths, and why", names, cells)]
