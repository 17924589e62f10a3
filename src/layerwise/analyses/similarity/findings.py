"""A sentence on whether similarity says which layers are needed.

Only what a test supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

from typing import Any

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import stacks
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    interval,
    p_value,
)
from layerwise.storage.run_tables import RunTables

SIMILARITY = "similarity"
_PREDICTORS = {
    "influence": "block influence",
    "angular": "angular distance",
    "cka": "1 minus linear CKA",
}
_COSTS = {"share_lost": "above-floor accuracy", "nats": "log-probability of right answers"}


def similarity_predicts(run: RunTables) -> list[Claim]:
    """The measure of similarity that ranks layers best by what skipping them costs."""
    prediction = run.table("prediction")
    if prediction is None:
        return []
    whole = prediction.loc[prediction["stack"].isna()]
    sure = whole.loc[numbers(whole, "p_holm") < 0.05]
    told = records(sure)
    return spaced(
        [_prediction(row, len(rows(prediction, effect=row["effect"]))) for row in told], 1
    )


def _prediction(row: dict[str, Any], n_tests: int) -> Claim:
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
        f"{rho}, {p_value(row['p_holm'])} {after_holm(n_tests)}, n = {row['n_items']})."
    )
    size = weight(0.45, abs(float(row["rho"])))
    return finding(sentence, size, SIMILARITY, source("prediction", where))
