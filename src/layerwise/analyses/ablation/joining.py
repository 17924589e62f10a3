"""Several ablations of one model on the same items as one result, its families of tests whole.

Which ablations belong together is settled here too; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.stats.effects import BASELINES
from layerwise.storage.base import Result
from layerwise.storage.provenance import Facts, join_facts

from .result import AblationResult

_CELL = ["task", "protocol"]
_ANSWER = [*_CELL, "item", "intervention"]
# Other batches round differently; other prompts differ by far more (nats).
_SAME = 0.1


def join_ablations(results: Sequence[Result]) -> list[Result]:
    """The results with all ablations among them made one, at the place of the first."""
    found = [result for result in results if isinstance(result, AblationResult)]
    if len(found) < 2:
        return list(results)
    if not all(joinable(*pair) for pair in combinations(found, 2)):
        raise UserError(
            "Two ablations do not belong together, for they hold the same change or their intact "
            "models answered differently: expected other changes under the same prompts; report "
            "them apart."
        )
    records = pd.concat([result.records for result in found], ignore_index=True)
    each = [*_ANSWER, "draw", "examples"]
    each = [*_ANSWER, "draw", "examples"]
    records = records.loc[~records.duplicated(each)]  # the intact model, asked again
    one = AblationResult(records, _facts([result.facts for result in found]), found[0].questions)
    return [
        one if result is found[0] else result
        for result in results
        if result is found[0] or not isinstance(result, AblationResult)
    ]


def joinable(one: AblationResult, other: AblationResult) -> bool:
    """Whether no change is in both, and the intact model answered alike where both asked."""
    mine, theirs = (
        result.records.drop_duplicates([*_CELL, "intervention"]) for result in (one, other)
    )
    both = mine.merge(theirs, on=[*_CELL, "intervention"])
    same = set(both.loc[~both["kind_x"].isin(BASELINES), "intervention"])
    return not same and _answered_alike(one, other, both)


def _answered_alike(one: AblationResult, other: AblationResult, both: pd.DataFrame) -> bool:
    asked = pd.DataFrame(both[_CELL])
    mine, theirs = (
        result.records.query("intervention == 'intact'")
        .merge(asked)
        .sort_values([*_ANSWER, "examples"])
        for result in (one, other)
    )
    if mine["item"].tolist() != theirs["item"].tolist():
        return False
    gold = (table["gold_logprob"].to_numpy(dtype=float) for table in (mine, theirs))
    same = mine["correct"].tolist() == theirs["correct"].tolist()
    return same and np.allclose(*gold, rtol=0, atol=_SAME, equal_nan=True)


def _facts(every: Sequence[Facts]) -> Facts:
    """The facts of all, with all its values for a setting in which they differ."""
    joined = join_facts(every)
    settings = {}
    for name in joined.settings:
        values = [facts.settings[name] for facts in every if name in facts.settings]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        settings[name] = distinct[0] if len(distinct) == 1 else distinct
    return joined.model_copy(update={"settings": settings})
