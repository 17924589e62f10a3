"""The built-in suites, one line each: name, capability, factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layerwise.tasks.items import Capability
from layerwise.tasks.task import Task

from .coherence import brackets, passage, repetition
from .facts import facts, facts_open_book, open_book
from .in_context import hops, kv_ids, kv_words, order, two_hop
from .sums import arithmetic, sum_chain, word_problems

BUILT_IN: tuple[tuple[str, Capability, Callable[..., Task]], ...] = (
    ("kv-words", "retrieval", kv_words),
    ("kv-ids", "retrieval", kv_ids),
    ("open-book", "retrieval", open_book),
    ("facts-open-book", "retrieval", facts_open_book),
    ("facts", "knowledge", facts),
    ("arithmetic", "reasoning", arithmetic),
    ("sum-chain", "reasoning", sum_chain),
    ("order", "reasoning", order),
    ("two-hop", "reasoning", two_hop),
    ("hops", "reasoning", hops),
    ("word-problems", "reasoning", word_problems),
    ("brackets", "coherence", brackets),
    ("repetition", "coherence", repetition),
    ("passage", "coherence", passage),
)

MATCHED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "matched": {
        "text": ("kv-words", "facts:rarity=2", "arithmetic", "brackets"),
        "organism": (
            "organism-lookup:n_pairs=36:n_before=1",
            "organism-facts:n_before=9",
            "organism-two-hop:n_chains=12:n_before=1",
            "organism-brackets:n_closed=3",
        ),
    },
    "matched-generate": {
        "text": ("kv-words", "facts", "word-problems", "repetition:length=8:n_fewshot=4")
    },
}
"""Names for suites, one of each capability, that are about as difficult, by language.

Under ``continuation``, and under ``generate``: what bundled models get right of them is measured
by ``analyses/matched_suites``.
"""
