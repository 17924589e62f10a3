"""Sentences on direct paths, on how far gradient estimates of patches hold, and on similarity.

Only what a test or an interval supports makes a sentence; the tables have the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import counted, in_order, interval, p_value, percent, spread
from layerwise.report.run import Run

PATHS, ESTIMATES, SIMILARITY = "paths", "estimates", "similarity"
_ACTIONS = {"noising": "takes away", "denoising": "brings back"}
_PREDICTORS = {
    "influence": "block influence",
    "angular": "angular distance",
    "cka": "1 minus linear CKA",
}
_COSTS = {"share_lost": "above-chance accuracy", "nats": "log-probability of right answers"}


def direct_paths(run: Run) -> list[Finding]:
    """The component that acts most on the logits, or on another receiver, on its own."""
    if run.paths is None:
        return []
    sure = pd.DataFrame(rows(run.paths, significant=True).query("recovered > 0"))
    ranked = records(sure.sort_values(by="recovered", ascending=False, kind="stable"))
    return [_path(row) for row in ranked[:1]]


def _path(row: dict[str, Any]) -> Finding:
    keys = ("task", "protocol", "direction", "receiver")
    where = {name: str(row[name]) for name in keys}
    receiver = "logits" if row["receiver"] == "logits" else f"receiver {row['receiver']}"
    share = percent(*(row[f"recovered{end}"] for end in ("", "_low", "_high")))
    sentence = (
        f"In {row['task']} ({row['protocol']} prompts), {row['sender']} acts most on the "
        f"{receiver} directly: patching this path alone {_ACTIONS[row['direction']]} {share} of "
        f"the logit difference ({p_value(row['p_bh'])} after Benjamini-Hochberg correction over "
        f"the senders, n = {counted(int(row['n_items']), 'pair')})."
    )
    size = weight(0.5, float(row["recovered"]))
    return Finding(sentence, size, PATHS, source("paths", where, sender=str(row["sender"])))


def estimates_hold(run: Run) -> list[Finding]:
    """In how many tasks gradient estimates rank patches as true patches do, and how well."""
    if run.agreement is None:
        return []
    found = []
    for direction in in_order(run.agreement["direction"], ()):
        mine = rows(run.agreement, direction=direction)
        mine = pd.DataFrame(mine.loc[~mine["signal"].eq(False).fillna(False)])
        for site in in_order(mine["site"], ()):
            told = rows(mine, site=site)
            if np.isfinite(numbers(told, "spearman_low")).any():
                found.append(_agreement(told, {"direction": direction, "site": site}))
    return spaced(found, 1)


def _agreement(mine: pd.DataFrame, where: dict[str, str]) -> Finding:
    known = mine.loc[np.isfinite(numbers(mine, "spearman_low"))]
    shown = records(known.loc[numbers(known, "spearman_low") > 0])
    least = records(known)[int(np.argmin(numbers(known, "spearman")))]
    rho = interval(least["spearman"], least["spearman_low"], least["spearman_high"], 2)
    sentence = (
        f"Gradients estimate patches of {where['site']} ({where['direction']}) in the order of "
        f"the true ones, beyond chance, in {len(shown)} of {counted(len(known), 'task')}: the "
        f"lowest rank correlation over sampled cells is {rho} ({least['task']}; n = "
        f"{spread(known['n_items'])} pairs)."
    )
    size = weight(0.35, float(least["spearman"]))
    return Finding(sentence, size, ESTIMATES, source("agreement", where, task=str(least["task"])))


def similarity_predicts(run: Run) -> list[Finding]:
    """The measure of similarity that ranks layers best by what skipping them costs."""
    if run.prediction is None:
        return []
    whole = run.prediction.loc[run.prediction["stack"].isna()]
    sure = whole.loc[numbers(whole, "p_holm") < 0.05]
    return spaced([_prediction(row) for row in records(sure)], 1)


def _prediction(row: dict[str, Any]) -> Finding:
    names = ("capability", "protocol", "predictor", "effect")
    where: dict[str, str | None] = {name: str(row[name]) for name in names}
    if stacks().n_encoder:  # each stack has a row, too
        where["stack"] = None
    rho = interval(row["rho"], row["low"], row["high"], 2)
    turned = "more" if row["rho"] > 0 else "less"
    sentence = (
        f"Similarity says something about need: in {row['capability']} under {row['protocol']}, "
        f"layers that change the stream more by {_PREDICTORS[row['predictor']]} cost {turned} "
        f"{_COSTS[row['effect']]} when skipped (rank correlation over {row['n_layers']} layers "
        f"{rho}, {p_value(row['p_holm'])} after Holm's correction, n = {row['n_items']})."
    )
    size = weight(0.45, abs(float(row["rho"])))
    return Finding(sentence, size, SIMILARITY, source("prediction", where))
