"""Small wired models, their tasks, and random layouts, for tests that know the answer.

What each method must find in them stands in ``analyses.validity.wired_truth``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from hypothesis import strategies as st

from analyses.validity.wired_truth import PlantedTruth as PlantedTruth
from analyses.validity.wired_truth import spare_layers as spare_layers
from layerwise.models.organisms.language import Language
from layerwise.models.organisms.layout import NEEDED, Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.tasks import Corruption, Item, Task
from layerwise.tasks.suites import toy
from tests.hooked import HookedTransformer

SMALL = Language("wired", n_keys=8, n_values=8, n_entities=16, n_relations=2)
N_CTX = 40
CAPABILITIES = tuple(NEEDED)
# Rounding in a rotated basis, in nats and in shares of a logit difference.
ROUNDING = 1e-5


@cache
@torch.inference_mode(False)  # whoever asks first: others take gradients
def small_model(layout: WiredLayout, seed: int = 0) -> HookedTransformer:
    """A wired model of the small language; do not change its weights."""
    return wired_model(layout, SMALL, seed=seed, n_ctx=N_CTX)


@cache
def small_task(capability: str, n_items: int = 24, seed: int = 0) -> Task:
    """The suite of a capability in the small language."""
    make = {"retrieval": toy.lookup, "knowledge": toy.facts, "reasoning": toy.two_hop}
    return make[capability](SMALL, seed, n_items=n_items)


def swap_values(task: Task) -> Task:
    """Items of a look-up suite whose corruption changes what is stated, not what is asked."""
    return replace(task, items=tuple(map(_swap_item_values, task.items)))


def _swap_item_values(item: Item) -> Item:
    other = next(choice for choice in item.choices if choice != item.answer)
    assert item.context is not None
    swap = {item.answer: other, other: item.answer}
    context = " ".join(swap.get(word, word) for word in item.context.split())
    return replace(item, corruption=Corruption(item.question, other, context))


@st.composite
def layouts(draw: st.DrawFn) -> WiredLayout:
    """Any order that the mechanisms can be in, with idle layers and heads between them."""
    n_layers, n_heads = draw(st.integers(5, 8)), draw(st.integers(1, 3))
    places = sorted(draw(st.permutations(range(n_layers)))[:5])
    facts = places.pop(draw(st.integers(0, 4)))
    heads = [draw(st.integers(0, n_heads - 1)) for _ in range(5)]
    spots = map(Spot, [*places, facts], heads)
    names = ("previous", "look_up", "second_hop", "gate", "facts")
    shared = draw(st.sampled_from([n for n in (1, 2, 3) if n_heads % n == 0]))
    return WiredLayout(n_layers, n_heads, **dict(zip(names, spots, strict=True)), n_shared=shared)
