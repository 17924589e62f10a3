"""Song, Wang, Li, Yin and Liu 2025: whether a few heads carry retrieval and reasoning."""

from __future__ import annotations

from layerwise.stats.contrasts import Contrast, layer_weights, share_contrast

from ..verdicts.claim import FULL, SMALL, Needs, Outcome, PublishedClaim, benchmarks
from ..verdicts.evidence import Evidence
from ..verdicts.head_sets import CHOSEN, evidence_of_sets, no_set_test, set_test
from .song import SONG

HALF = 0.5  # of the score: what a set must cost to carry a capability, fixed beforehand


def few_heads_carry(evidence: Evidence) -> list[Outcome]:
    """song-7, of retrieval and of reasoning."""
    sets = evidence_of_sets(evidence, "cost")
    outcomes: list[Outcome] = []
    for capability in ("retrieval", "reasoning"):
        cells = sets.cells_of_capability(capability)
        if not cells:
            outcomes.append(no_set_test(sets, capability, capability))
            continue
        pool = sets.pool(cells)
        lost = share_contrast(pool, layer_weights(pool.layers, [CHOSEN]))
        half = {"beyond half of the score": Contrast(lost.estimate - HALF, lost.moves, lost.least)}
        effect = f"more of {capability} without the heads that seem to bring most"
        outcomes.append(set_test(capability, pool, effect, half))
    return outcomes


CLAIMS = (
    PublishedClaim(
        "song-7", SONG, "code; the finding as told second-hand",
        "A few heads carry retrieval, and a few carry reasoning.",
        "Llama-3.1-8B and others: single heads set to zero, with the keys and values they share.",
        "without the 5 % of heads that seem to bring most on half of the items, the other half "
        "loses more than half of its score, and more than without random heads (than their mean, "
        "each set, and one more set by their spread)",
        "it is shown to lose less than 5 accuracy points, or less than without the median random "
        "set",
        "Heads are ranked by a gradient, which does not see a head that only moves attention that "
        "is sure already; other heads might carry more. Keys and values are left as they are.",
        Needs({SMALL: ("kv-words", "arithmetic"), FULL: benchmarks(
            "kv_retrieval", "gsm8k")},
            (), also=("costly heads",)),
        few_heads_carry,
    ),
)  # fmt: skip
