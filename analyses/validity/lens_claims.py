"""Rates at which a lens seems to order two capabilities whose answers only have other rivals.

The answer's logit rises over the layers alike in both; the other words are noise of the same
spread. All that differs is how many of them could be said.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sentences import facts

from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import ESTABLISHED, LENS, ORDER, Claim
from layerwise.report.html import findings_from_tables
from layerwise.results import LensResult
from layerwise.stats.inference import exact_interval
from layerwise.storage.parquet import frame

N_SETS, N_ITEMS, N_LAYERS, EVERYTHING = 40, 60, 12, 1000
DIGITS, WORDS = 10, 2000
EARLY, LATE = "retrieval", "knowledge"
WORLDS = {"as many rivals": (WORDS, WORDS), "10 rivals against 2,000": (DIGITS, WORDS)}
# Of the answer's logit, in standard deviations of the others'; at the end it is on top of all.
_RISE = np.linspace(0.0, 8.0, N_LAYERS + 1)


def lens_result(rng: np.random.Generator, rivals: tuple[int, int]) -> LensResult:
    """Lens readings of two capabilities whose answers have so many rivals."""
    rows = [
        row
        for capability, n in zip((EARLY, LATE), rivals, strict=True)
        for item in range(N_ITEMS)
        for row in _item(rng, capability, item, n)
    ]
    return LensResult(frame("lens", rows), facts((EARLY, LATE), N_ITEMS))


def _item(rng: np.random.Generator, capability: str, item: int, n: int) -> list[dict[str, object]]:
    read = []
    others = rng.standard_normal((N_LAYERS + 1, n))
    answer = _RISE + rng.standard_normal(N_LAYERS + 1)
    answer[-1] = 8.0
    for layer, (own, rival) in enumerate(zip(answer, others, strict=True), start=-1):
        rank = int((rival > own).sum())
        logprob = own - np.logaddexp.reduce([own, *rival])
        read.append({
            "task": capability, "capability": capability, "item": f"{capability}/{item:03d}",
            "protocol": "continuation", "lens": "logit", "over": "prompt", "site": "resid_post",
            "layer": layer, "pos": -1, "token": "abcd"[item % 4], "rank": rank, "final_rank": rank,
            "logprob": logprob, "entropy": 1.0, "kl": 0.1, "top_tokens": ["a"],
        })  # fmt: skip
    return read


def comparison_claims(result: LensResult) -> list[Claim]:
    """Claims of its page on both capabilities by the lens."""
    run = run_tables([result, emergence([result], n_resamples=20)])
    return [claim for claim in findings_from_tables(run, EVERYTHING)
            if claim.kind in (LENS, ORDER) and len(claim.capabilities) == 2
            and claim.source["table"] != "emergence"]  # fmt: skip


def lens_rates(n_sets: int = N_SETS, seed: int = 0) -> pd.DataFrame:
    """By world, in how many data sets a lens differs significantly, and an order is claimed."""
    rows = []
    for number, (world, rivals) in enumerate(WORLDS.items()):
        rng = np.random.default_rng([seed, number])
        results = [lens_result(rng, rivals) for _ in range(n_sets)]
        tables = [result.derived_tables()["prediction_depth_comparisons"] for result in results]
        differ = sum(bool(table["significant"].any()) for table in tables)
        false = sum(any(claim.evidence == ESTABLISHED for claim in comparison_claims(result))
                    for result in results)  # fmt: skip
        interval = exact_interval(false, n_sets)
        rate = {"rate": interval.estimate, "low": interval.low, "high": interval.high}
        rows.append({"world": world, "sets": n_sets, "differ": differ, "false": false} | rate)
    return pd.DataFrame(rows)
