"""Random requests and interventions for property tests, with prefixes that are shared or not."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from layerwise.sweep import Generate, LogLikelihood, intact, mean, patch, skip, zero
from layerwise.sweep.interventions import SITES, Intervention

from .models import D_MODEL, D_VOCAB, N_HEADS, N_LAYERS

token = st.integers(0, D_VOCAB - 1)


def tokens(low: int, high: int):
    return st.lists(token, min_size=low, max_size=high).map(tuple)


@st.composite
def requests(draw):
    """Some contexts over few shared prefixes, each with continuations and perhaps a text."""
    prefixes = draw(st.lists(tokens(0, 6), min_size=1, max_size=2))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        context = draw(st.sampled_from(prefixes)) + draw(tokens(1, 5))
        for continuation in draw(st.lists(tokens(1, 4), max_size=3)):
            found.append(LogLikelihood(context, continuation))
        if draw(st.booleans()) or not found:
            found.append(Generate(context, draw(st.integers(1, 7))))
    return found


@st.composite
def patch_requests(draw):
    """Contexts with source runs of the same length."""
    prefix = draw(tokens(0, 5))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(3, 6))
        context = prefix + draw(tokens(length, length))
        source = prefix + draw(tokens(length, length))
        for continuation in draw(st.lists(tokens(1, 3), min_size=1, max_size=2)):
            found.append(LogLikelihood(context, continuation, source))
    return found


layers = st.integers(0, N_LAYERS - 1)
sites = st.sampled_from([site for site in SITES])


@st.composite
def _constant(draw):
    site, layer = draw(sites), draw(layers)
    if draw(st.booleans()):
        return zero(site, layer)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return mean(site, layer, torch.randn(D_MODEL, generator=generator))


single = st.one_of(layers.map(skip), _constant(), st.just(intact()))


@st.composite
def interventions(draw):
    """One change, or a set of changes in different layers."""
    parts = draw(st.lists(single, min_size=1, max_size=3))
    edits = tuple(
        {(e.layer, getattr(e, "site", "layer")): e for p in parts for e in p.edits}.values()
    )
    return Intervention("+".join(p.id for p in parts), "set", None, edits)


@st.composite
def patches(draw):
    layer, pos = draw(layers), draw(st.integers(-3, 2))
    if draw(st.booleans()):
        return patch("z", layer, pos, draw(st.integers(0, N_HEADS - 1)))
    return patch(draw(sites), layer, pos)
