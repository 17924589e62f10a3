"""Made-up ablations of single heads, with the heads that matter planted in them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import synthetic
from synthetic import Plan

from layerwise.results import AblationResult

N_HEADS = 3


def planted_heads(
    plan: Plan, needed: dict[str, tuple[tuple[int, int], ...]], n_heads: int = N_HEADS
) -> AblationResult:
    """Every head set to zero; under each protocol the needed ones bring answers to chance."""
    parts = []
    for head in range(n_heads):
        critical = {p: tuple(at for at, h in needed[p] if h == head) for p in plan.protocols}
        part = synthetic.records(replace(plan, kinds=(("zero", "z"),), critical=critical))
        changed = part["intervention"] != "intact"
        part.loc[changed, "intervention"] += f",head={head}"
        parts.append(part.assign(head=pd.array([head] * len(part), dtype="Int64")))
        parts[-1].loc[~changed, "head"] = pd.NA
        parts[-1]["heads"] = pd.Series([[head] if one else None for one in changed], part.index)
        if head:
            parts[-1] = parts[-1].loc[changed]
    return AblationResult(pd.concat(parts, ignore_index=True), synthetic.facts(plan))
