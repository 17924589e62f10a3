"""A sentence on whether similarity says which layers are needed.

Only what a test supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import IN_TABLE, Claim, Estimate, source, spaced, weight
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import asked_of, numbers, records, rows
from layerwise.presentation.wording import counted, when
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
    more = "more" if row["rho"] > 0 else "less"
    rho, low, high = (float(row[name]) for name in ("rho", "low", "high"))
    unit = f"rank correlation over {row['n_layers']} layers"
    return Claim(
        kind=SIMILARITY, evidence=IN_TABLE, importance=weight(0.45, abs(rho)),
        short=f"In {row['capability']}, layers that change the stream more cost {more} when "
        f"skipped, {when(row['protocol'])}.",
        details=(f"Change is {_PREDICTORS[row['predictor']]}, cost is {_COSTS[row['effect']]}.",),
        estimate=Estimate(rho, low, high, unit, digits=2), p=float(row["p_holm"]),
        test=f"items and orders of layers, the larger p, Holm over {counted(n_tests, 'test')} of "
        "this cost",
        source=source("prediction", where), **asked_of(pd.DataFrame([row])),
    )  # fmt: skip
