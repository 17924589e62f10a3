"""Men et al. 2024, and Hinostroza et al. 2026: block influence predicts which layers can go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

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
    no_test,
)
from ..verdicts.evidence import Evidence

STRONG = 0.7  # a correlation of two rankings from which on one stands for the other
_RHO = "rank correlation"
MEN = Source(
    "Men et al. 2024",
    "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
    "arXiv:2403.03853",
)
HINOSTROZA = Source("Hinostroza et al. 2026", "", "arXiv:2605.14075")


def _correlations(evidence: Evidence) -> pd.DataFrame:
    """Rank correlations of block influence with nats lost, by capability."""
    table = evidence.tables.get("prediction", pd.DataFrame())
    if table.empty:
        return table
    wanted = {"predictor": "influence", "effect": "nats", "protocol": "continuation"}
    chosen = table["stack"].isna() & table["rho"].notna()
    for name, value in wanted.items():
        chosen &= table[name] == value
    return table.loc[chosen]


def _numbers(rows: pd.DataFrame) -> tuple[Number, ...]:
    return tuple(
        Number(str(row["capability"]), row["rho"], row["low"], row["high"], int(row["n_items"]))
        for row in rows.to_dict("records")
    )


def _no_correlation(evidence: Evidence) -> Sequence[Outcome]:
    if "prediction" not in evidence.tables:
        return [NoTest("", Verdict.NOT_ASKED, "Block influence was not measured.")]
    return [no_test(evidence, "", "choosing", "continuation")]


def influence_tells(evidence: Evidence) -> Sequence[Outcome]:
    """men-1."""
    rows = _correlations(evidence)
    if rows.empty:
        return _no_correlation(evidence)
    rho, p = (rows[name].to_numpy(dtype=float) for name in ("rho", "p"))
    least = int(np.argmin(rho))
    sides = [float(np.where(sign * rho > 0, p / 2, 1.0).max()) for sign in (1, -1)]
    numbers = _numbers(rows)
    return [ClaimTest("", _RHO, "influence with nats lost, of the capability where it is lowest",
                   numbers[least], *sides, numbers=numbers)]  # fmt: skip


def influence_is_a_poor_proxy(evidence: Evidence) -> Sequence[Outcome]:
    """hinostroza-1."""
    rows = _correlations(evidence)
    if rows.empty:
        return _no_correlation(evidence)
    numbers = _numbers(rows)
    under, over = zip(*(bound_p_values(number, STRONG) for number in numbers), strict=True)
    highest = max(numbers, key=lambda number: number.estimate)
    return [
        ClaimTest("", _RHO, "influence with nats lost, of the capability where it is highest",
                highest, max(under), max(over), numbers=numbers)
    ]  # fmt: skip


_NEEDS = Needs(
    {
        SMALL: ("facts", "kv-words", "arithmetic"),
        FULL: benchmarks("mmlu", "hellaswag", "openbookqa"),
    },
    ("continuation",),
    also=("similarity",),
)

CLAIMS = (
    PublishedClaim(
        "men-1", MEN, "abstract",
        "Layers with little block influence are those that cost little when they are removed.",
        "Llama-2, Baichuan2 and others, pruned by influence on running text; benchmarks after it.",
        "in every capability, layers with more influence cost more nats",
        "in every capability, layers with more influence cost fewer nats",
        "Influence is read on the tasks' prompts, and each layer is removed alone.",
        _NEEDS, influence_tells,
    ),
    PublishedClaim(
        "hinostroza-1", HINOSTROZA, "abstract",
        "The cosine between a layer's input and output is a poor proxy for what its removal costs.",
        "Llama-3-8B, Mistral-7B, OLMo, Pythia (second-hand); about ten benchmarks.",
        "the rank correlation is shown to be below 0.7 in every capability",
        "it is shown to be above 0.7 in every capability",
        "It does not exclude men-1: a correlation of 0.4 supports both.",
        _NEEDS, influence_is_a_poor_proxy,
    ),
)  # fmt: skip
