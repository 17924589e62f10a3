"""Olsson et al. 2022: induction heads and in-context learning."""

from __future__ import annotations

from ..verdicts.claim import FULL, SMALL, Needs, Outcome, PublishedClaim, Source, benchmarks
from ..verdicts.evidence import Evidence
from ..verdicts.head_sets import evidence_of_sets, no_set_test, set_test

OLSSON = Source("Olsson et al. 2022", "In-context Learning and Induction Heads", "arXiv:2209.11895")


def induction_heads_carry_repetition(evidence: Evidence) -> list[Outcome]:
    """olsson-1."""
    sets = evidence_of_sets(evidence, "induction")
    every = list(sets.cells.values())
    if not every:
        return [no_set_test(sets, "", "repeating what stands in the prompt")]
    return [set_test("", sets.pool(every), "more without the induction heads", {})]


CLAIMS = (
    PublishedClaim(
        "olsson-1", OLSSON, "argument 3, ablations",
        "Induction heads drive in-context learning.",
        "Small attention-only models and models with MLPs: loss late in a text minus loss early, "
        "without single heads.",
        "without all heads with a prefix-matching score above 0.4, looking up what stands in the "
        "prompt loses more than without random heads (than their mean, each set, and one more set "
        "by their spread)",
        "it is shown to lose less than 5 accuracy points, or less than without the median random "
        "set",
        "Their causal part is of small models. A pair of words is repeated here; loss by position "
        "in a text is not measured.",
        Needs({SMALL: ("kv-words",), FULL: benchmarks("kv_retrieval")},
              (), also=("induction heads",)),
        induction_heads_carry_repetition,
    ),
)  # fmt: skip
