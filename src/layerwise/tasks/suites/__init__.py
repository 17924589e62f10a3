"""The built-in suites, one line each: name, capability, factory.

They are made by the modules beside this one and asked for by name in ``registry``.
"""

from __future__ import annotations

from collections.abc import Callable

from layerwise.tasks.items import Capability
from layerwise.tasks.suites.arithmetic import arithmetic, sum_chain
from layerwise.tasks.suites.chains import order, two_hop
from layerwise.tasks.suites.facts import facts, facts_open_book
from layerwise.tasks.suites.key_value import kv_ids, kv_words
from layerwise.tasks.suites.open_book import open_book
from layerwise.tasks.suites.passage import passage
from layerwise.tasks.suites.structure import brackets, repetition
from layerwise.tasks.suites.word_problems import word_problems
from layerwise.tasks.task import Task

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
    ("word-problems", "reasoning", word_problems),
    ("brackets", "coherence", brackets),
    ("repetition", "coherence", repetition),
    ("passage", "coherence", passage),
)
