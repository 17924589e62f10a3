"""From outcomes of tests to verdicts, corrected over all claims that were asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.stats.families.multiplicity import correct_family
from layerwise.storage.parquet import frame

from .claim import ClaimTest, NoTest, Outcome, PublishedClaim, Verdict
from .evidence import Evidence

LEVEL, POWER = 0.05, 0.8


def claim_outcomes(
    claims: Sequence[PublishedClaim],
    evidence: Evidence,
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[PublishedClaim, Outcome]]:
    """The outcome of each part of each claim, of its own tasks alone where these are named."""
    found: list[tuple[PublishedClaim, Outcome]] = []
    for claim in claims:
        names = (claim.name, *claim.needs.also)
        reasons = [evidence.missing[name] for name in names if name in evidence.missing]
        if evidence.n_layers < claim.needs.n_layers:
            reasons.append(
                f"The model has {evidence.n_layers} layers; it takes {claim.needs.n_layers}."
            )
        if reasons:
            why = " ".join(dict.fromkeys(reasons))
            found.append((claim, NoTest("", Verdict.NOT_ASKED, why)))
            continue
        own = evidence if tasks is None else evidence.select_tasks(tasks[claim.name])
        found += [(claim, outcome) for outcome in claim.test(own)]
    return found


def judge(
    claims: Sequence[PublishedClaim],
    evidence: Evidence,
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> Mapping[str, pd.DataFrame]:
    """``verdicts`` and ``verdict_numbers``: a row per part of each claim, and what it stands on.

    Each part is tested in both directions. Twice the smaller of its two p-values is corrected by
    Holm's method over all parts that were tested, so that any false verdict of a run, on either
    side, is as rare as 5 %. ``tasks`` are those of each claim by its name, so that no verdict
    depends on what other claims ask.
    """
    found = claim_outcomes(claims, evidence, tasks)
    p = np.array([_two_sided_p(outcome) for _, outcome in found], dtype=float)
    tested = ~np.isnan(p)
    n_tests = int(tested.sum())
    p_run = correct_family(p, n_tests)
    rows = [
        _row(claim, outcome, float(own), float(run), n_tests)
        for (claim, outcome), own, run in zip(found, p, p_run, strict=True)
    ]
    numbers = [
        {
            "claim": claim.name,
            "part": outcome.part,
            "unit": outcome.unit_of_numbers or outcome.unit,
            **_number_columns(number),
        }
        for claim, outcome in found
        if isinstance(outcome, ClaimTest)
        for number in outcome.numbers or (outcome.estimate,)
        if math.isfinite(number.estimate)
    ]
    return {
        "verdicts": frame("verdicts", rows),
        "verdict_numbers": frame("verdict_numbers", numbers),
    }


def _two_sided_p(outcome: Outcome) -> float:
    """Twice the smaller p-value of both directions; nan of what was not tested."""
    if isinstance(outcome, NoTest):
        return np.nan
    return min(1.0, 2 * min(outcome.p_holds, outcome.p_opposite))


def _number_columns(number: Any) -> dict[str, Any]:
    values = {name: getattr(number, name) for name in ("estimate", "low", "high")}
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {"label": number.label, **finite, "n_items": number.n_items}


def _row(
    claim: PublishedClaim, outcome: Outcome, p: float, p_run: float, n_tests: int
) -> dict[str, Any]:
    same = {
        "claim": claim.name,
        "part": outcome.part,
        "source": f"{claim.source.authors}, {claim.source.address}",
        "sentence": claim.sentence,
    }
    if isinstance(outcome, NoTest):
        return {**same, "verdict": str(outcome.verdict), "note": outcome.why}
    holds = outcome.p_holds <= outcome.p_opposite
    sure = p_run < LEVEL
    verdict = (Verdict.HOLDS if holds else Verdict.OPPOSITE) if sure else Verdict.OPEN
    number = _number_columns(outcome.estimate)
    number.pop("label")
    return {
        **same,
        "verdict": str(verdict),
        "effect": outcome.effect,
        "unit": outcome.unit,
        **number,
        "smallest": _smallest(outcome.error, n_tests),
        "side": "holds" if holds else "opposite",
        "p": p,
        "p_run": p_run,
        "run_tests": n_tests,
        "note": outcome.note,
    }


def _smallest(error: float, n_tests: int) -> float | None:
    """The smallest effect that is shown in 8 of 10 runs, if it must be so beside all tests."""
    from scipy.special import ndtri

    if not math.isfinite(error):
        return None
    return float((ndtri(1 - LEVEL / 2 / n_tests) + ndtri(POWER)) * error)
