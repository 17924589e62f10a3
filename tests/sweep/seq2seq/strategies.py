"""Random requests and interventions for encoder-decoders, which share what the engine can share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from layerwise.models.seq2seq import Seq2SeqConfig
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    mean,
    noise,
    patch,
    resample,
    skip,
    zero,
)
from layerwise.sweep.changes.edits import BY_HEAD, CROSS_SITES, SITES

from ..strategies import STOPS, together, tokens


@st.composite
def requests(draw, *, equal: bool = False):
    """Inputs with continuations and texts, some inputs more than once, all with a source run."""
    alphabet = draw(st.sampled_from([3, 50]))
    contexts = draw(st.lists(tokens(1, 9, alphabet), min_size=1, max_size=3))
    found = []
    for context in [*contexts, draw(st.sampled_from(contexts))]:
        low, high = (len(context), len(context)) if equal else (1, 9)
        source = draw(tokens(low, high, alphabet))
        for continuation in draw(st.lists(tokens(1, 4, alphabet), max_size=3)):
            found.append(LogLikelihood(context, continuation, source))
        if draw(st.booleans()) or not found:
            stop = draw(st.sampled_from(STOPS))
            found.append(Generate(context, draw(st.integers(1, 8)), stop, source))
    return found


def _shape(cfg: Seq2SeqConfig, site: str, layer: int) -> tuple[int, ...]:
    n_heads = cfg.heads_of(layer)
    d_head = cfg.encoder_d_head if layer < cfg.n_encoder_layers else cfg.decoder_d_head
    return (n_heads, d_head) if site in BY_HEAD else (cfg.d_model,)


@st.composite
def _site(draw, cfg: Seq2SeqConfig):
    layer = draw(st.integers(0, cfg.n_layers - 1))
    known = [s for s in SITES if layer >= cfg.n_encoder_layers or s not in CROSS_SITES]
    site = draw(st.sampled_from(known))
    heads = [None, *range(cfg.heads_of(layer))] if site in BY_HEAD else [None]
    return site, layer, draw(st.sampled_from(heads))


@st.composite
def change(draw, cfg: Seq2SeqConfig):
    """One change of any kind but a patch."""
    site, layer, head = draw(_site(cfg))
    kind = draw(st.sampled_from(["skip", "zero", "mean", "by position", "noise", "resample"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = _shape(cfg, site, layer)
    if kind == "skip":
        return skip(layer)
    if kind == "zero":
        return zero(site, layer, head)
    if kind == "resample":
        return resample(site, layer, head)
    if kind == "mean":
        return mean(site, layer, torch.randn(shape, generator=generator), head)
    table = torch.randn(draw(st.integers(1, 6)), *shape, generator=generator)
    if kind == "noise":
        return noise(site, layer, 0.3 * table, head)
    return mean(site, layer, table, head)


@st.composite
def _patch(draw, cfg: Seq2SeqConfig, equal: bool):
    site, layer, head = draw(_site(cfg))
    if site in BY_HEAD and head is None:
        head = 0
    # Inputs have at least one token, and the decoder begins with one.
    source_pos = draw(st.sampled_from([0, -1, *([None] if equal else [])]))
    return patch(site, layer, draw(st.sampled_from([0, -1])), head, source_pos=source_pos)


def families(cfg: Seq2SeqConfig, *, patches: bool = False, equal: bool = True):
    """Interventions made of few changes, so that some begin alike and some are equal."""
    single = st.one_of(change(cfg), _patch(cfg, equal)) if patches else change(cfg)

    @st.composite
    def found(draw):
        pool = draw(st.lists(single, min_size=1, max_size=5))
        chosen = st.lists(st.sampled_from(pool), max_size=3).map(together)
        return draw(st.lists(chosen, min_size=1, max_size=7))

    return found()
