"""Wu, Wang, Xiao, Peng and Fu 2024: heads that copy from the context."""

from __future__ import annotations

from layerwise.stats.contrasts import layer_weights, share_contrast, unpaired_difference

from ..verdicts.claim import FULL, SMALL, Needs, Outcome, PublishedClaim, Source, benchmarks
from ..verdicts.evidence import Evidence
from ..verdicts.head_sets import CHOSEN, evidence_of_sets, no_set_test, set_test

WU = Source(
    "Wu et al. 2024",
    "Retrieval Head Mechanistically Explains Long-Context Factuality",
    "arXiv:2404.15574",
)


def copying_heads_carry_retrieval(evidence: Evidence) -> list[Outcome]:
    """wu-1."""
    sets = evidence_of_sets(evidence, "copying")
    sides = {name: sets.cells_of_capability(name) for name in ("retrieval", "knowledge")}
    for name, cells in sides.items():
        if not cells:
            return [no_set_test(sets, "", name)]
    retrieval, knowledge = (sets.pool(cells) for cells in sides.values())
    lost = [
        share_contrast(pool, layer_weights(pool.layers, [CHOSEN]))
        for pool in (retrieval, knowledge)
    ]
    beyond = {"beyond what facts lose": unpaired_difference(*lost)}
    return [set_test("", retrieval, "more of retrieval without the heads that copy", beyond)]


CLAIMS = (
    PublishedClaim(
        "wu-1", WU, "figures 7 and 8",
        "A few heads that copy from the context carry retrieval; answers from memory need them "
        "less.",
        "Llama-2, Mistral, Qwen and others: needles in long texts, extractive questions, MMLU.",
        "without the 5 % of heads with the highest copy scores, retrieval loses more than without "
        "random heads (than their mean, each set, and one more set by their spread), and a larger "
        "share than facts do",
        "it is shown to lose less than 5 accuracy points, or less than without the median random "
        "set",
        "The contexts are short, and the right answer is given while heads are scored. What random "
        "heads cost under long reasoning is not asked.",
        Needs({SMALL: ("kv-words", "facts"), FULL: benchmarks(
            "kv_retrieval", "openbookqa")},
            (), also=("copying heads",)),
        copying_heads_carry_retrieval,
    ),
)  # fmt: skip
