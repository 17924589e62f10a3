"""Hu, Zhou and Zhang 2025: whether harder problems use more of a model's depth."""

from __future__ import annotations

from ..verdicts.claim import FULL, SMALL, Needs, PublishedClaim, Source, benchmarks
from ..verdicts.depth import Variants, compare_variants

HU = Source("Hu et al. 2025", "", "arXiv:2512.14064")
_SUITES = (
    Variants("arithmetic", "arithmetic:digits=1:n_items=60", "arithmetic:digits=2"),
    Variants("sum-chain", "sum-chain:terms=3:n_items=120", "sum-chain:terms=6"),
    Variants("kv-words", "kv-words:n_pairs=5", "kv-words:n_pairs=15"),
)
_SCHOOL = Variants(
    "mmlu", "mmlu:subject=elementary_mathematics", "mmlu:subject=high_school_mathematics"
)
_SMALL = tuple(name for pair in _SUITES for name in (pair.easy, pair.hard))

CLAIMS = (
    PublishedClaim(
        "hu-1", HU, "abstract",
        "Harder problems do not use more layers.",
        "Qwen2.5 of 1.5B to 32B: share of the depth that works on an answer, by several measures "
        "of the stream and of its readings.",
        "the mean layer of what the harder variant of a suite loses is within one layer of that of "
        "the easier one, also without layers that both need where other ones are needed too",
        "it is more than one layer deeper, likewise, and a deep and an early layer cross that way",
        "Removed layers are read, not the stream. Questions that need the same layers and deeper "
        "ones too cannot be told from questions that are only more fragile; they stay open.",
        Needs({SMALL: _SMALL, FULL: (
            *_SMALL, *benchmarks(_SCHOOL.easy, _SCHOOL.hard, folder="mmlu"))},
            ("continuation", "generate")),
        lambda evidence: compare_variants(evidence, (*_SUITES, _SCHOOL)),
    ),
)  # fmt: skip
