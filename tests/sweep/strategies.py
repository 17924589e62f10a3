"""Random requests and interventions for property tests, which share what the engine can share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from layerwise.models.seq2seq import Seq2SeqConfig
from layerwise.sweep import (
    Generate,
    LogLikelihood,
    mean,
    noise,
    of_kv_group,
    patch,
    resample,
    skip,
    zero,
)
from layerwise.sweep.changes.edits import BY_HEAD, CROSS_SITES, SITES
from layerwise.sweep.changes.interventions import Intervention

from .models import D_HEAD, D_MODEL, D_VOCAB, N_HEADS, N_LAYERS

# Few distinct tokens make texts that repeat themselves, so that drafts are offered.
alphabets = st.sampled_from([2, 3, D_VOCAB])


def tokens(low: int, high: int, alphabet: int = D_VOCAB):
    return st.lists(st.integers(0, alphabet - 1), min_size=low, max_size=high).map(tuple)


@st.composite
def contexts(draw, alphabet: int):
    """Contexts with long shared beginnings, with none, and some that begin others."""
    beginnings = draw(st.lists(tokens(0, 12, alphabet), min_size=1, max_size=2))
    found = [draw(st.sampled_from(beginnings)) + draw(tokens(1, 5, alphabet))]
    for _ in range(draw(st.integers(0, 3))):
        before = draw(st.sampled_from(found))
        found.append(
            draw(
                st.one_of(
                    st.sampled_from(beginnings).flatmap(
                        lambda beginning: tokens(1, 5, alphabet).map(lambda own: beginning + own)
                    ),
                    st.integers(1, len(before)).map(lambda n, before=before: before[:n]),
                    tokens(1, 3, alphabet).map(lambda more, before=before: before + more),
                )
            )
        )
    return found


STOPS = [(), (), ("b",), ("c", "aa")]


@st.composite
def requests(draw):
    """Contexts, each with continuations and perhaps texts of several lengths."""
    alphabet = draw(alphabets)
    found = []
    for context in draw(contexts(alphabet)):
        for continuation in draw(st.lists(tokens(1, 4, alphabet), max_size=3)):
            found.append(LogLikelihood(context, continuation))
        if draw(st.booleans()) or not found:
            found.append(Generate(context, draw(st.integers(1, 12)), draw(st.sampled_from(STOPS))))
    return found


@st.composite
def patch_requests(draw):
    """Contexts with source runs of the same length, some of them of two sources."""
    alphabet = draw(alphabets)
    prefix = draw(tokens(0, 8, alphabet))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(3, 6))
        context = prefix + draw(tokens(length, length, alphabet))
        for _ in range(draw(st.integers(1, 2))):
            source = prefix + draw(tokens(length, length, alphabet))
            for continuation in draw(st.lists(tokens(1, 3, alphabet), min_size=1, max_size=2)):
                found.append(LogLikelihood(context, continuation, source))
    return found


@dataclass(frozen=True)
class Places:
    """Places at which a model can be changed."""

    n_layers: int = N_LAYERS
    n_encoder: int = 0
    d_model: int = D_MODEL
    heads: tuple[int, int] = (N_HEADS, N_HEADS)  # of the encoder and the decoder, and their widths
    d_heads: tuple[int, int] = (D_HEAD, D_HEAD)

    @classmethod
    def from_config(cls, cfg: Seq2SeqConfig) -> Places:
        heads = cfg.encoder_heads, cfg.decoder_heads
        widths = cfg.encoder_d_head, cfg.decoder_d_head
        return cls(cfg.n_layers, cfg.n_encoder_layers, cfg.d_model, heads, widths)

    def shape(self, site: str, layer: int) -> tuple[int, ...]:
        stack = layer >= self.n_encoder
        return (self.heads[stack], self.d_heads[stack]) if site in BY_HEAD else (self.d_model,)

    def sites(self, layer: int) -> list[str]:
        crossing = 0 < self.n_encoder <= layer
        return [site for site in SITES if crossing or site not in CROSS_SITES]


DECODER = Places()
ANYWHERE = st.integers(-3, 2)
layers = st.integers(0, N_LAYERS - 1)


@st.composite
def _place(draw, places: Places):
    layer = draw(st.integers(0, places.n_layers - 1))
    site = draw(st.sampled_from(places.sites(layer)))
    heads = range(places.shape(site, layer)[0]) if site in BY_HEAD else ()
    return site, layer, draw(st.sampled_from([None, *heads]))


@st.composite
def _constant(draw, places: Places = DECODER):
    """Zeros, means and noise of all sites, of single heads, and of heads that share keys."""
    site, layer, head = draw(_place(places))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = places.shape(site, layer)
    # Of fewer positions than most sequences have, so that tables end within them.
    positions = draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["zero", "mean", "mean by position", "noise"]))
    if kind == "zero":
        return zero(site, layer, head)
    if kind == "mean":
        return mean(site, layer, torch.randn(shape, generator=generator), head)
    table = torch.randn(positions, *shape, generator=generator)
    if kind == "noise":
        return noise(site, layer, 0.3 * table, head)
    if head is not None and not places.n_encoder and draw(st.booleans()):
        return of_kv_group(head // 2, 2, lambda head: mean(site, layer, table, head))
    return mean(site, layer, table, head)


def _resample(places: Places = DECODER):
    return _place(places).map(lambda place: resample(*place))


@st.composite
def _patch(draw, places: Places = DECODER, at=ANYWHERE, taken=None):
    site, layer, head = draw(_place(places))
    head = (head or 0) if site in BY_HEAD else None
    source_pos = draw(st.none() | at if taken is None else taken)
    return patch(site, layer, draw(at), head, source_pos=source_pos)


@st.composite
def copy_requests(draw):
    """Requests of both kinds with sources of any length, some of them of two sources."""
    alphabet = draw(alphabets)
    found = []
    for context in draw(contexts(alphabet))[:3]:
        for _ in range(draw(st.integers(1, 2))):
            source = context[:2] + draw(tokens(0, 6, alphabet))
            for continuation in draw(st.lists(tokens(1, 3, alphabet), max_size=2)):
                found.append(LogLikelihood(context, continuation, source))
            if draw(st.booleans()) or not found:
                stop = draw(st.sampled_from(STOPS))
                found.append(Generate(context, draw(st.integers(1, 8)), stop, source))
    return found


@st.composite
def two_stack_requests(draw, *, equal: bool = False):
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


def combine_edits(parts: Iterable[Intervention]) -> Intervention:
    """All changes of some interventions as one."""
    parts = list(parts)
    edits = tuple(edit for part in parts for edit in part.edits)
    return Intervention("+".join(part.id for part in parts) or "intact", "set", None, edits)


@st.composite
def _families(draw, single):
    """Interventions made of few changes, so that some begin alike and some are equal.

    With skipped layers 1, 2 and 3 to choose from: {1}, {1, 2}, {1, 3}, {1, 3}, intact.
    """
    pool = draw(st.lists(single, min_size=1, max_size=5))
    chosen = st.lists(st.sampled_from(pool), max_size=3).map(combine_edits)
    return draw(st.lists(chosen, min_size=1, max_size=7))


def two_stacks(cfg: Seq2SeqConfig, *, patches: bool = False, equal: bool = True):
    """Changes of an encoder-decoder; ``equal`` if sources are as long as prompts."""
    places = Places.from_config(cfg)
    skips = st.integers(0, cfg.n_layers - 1).map(skip)
    single = [skips, _constant(places), _resample(places)]
    if patches:
        # Inputs have at least one token, and the decoder begins with one.
        ends = st.sampled_from([0, -1])
        single.append(_patch(places, ends, st.none() | ends if equal else ends))
    return _families(st.one_of(single))


constants = st.one_of(layers.map(skip), _constant())
interventions = st.one_of(
    _families(layers.map(skip)),
    _families(constants),
    # Several changes of one layer, in any order: also a skip together with what it leaves out.
    layers.flatmap(lambda layer: _families(constants.filter(lambda i: i.layer == layer))),
)
patches = st.one_of(
    _families(_patch()),
    st.lists(_patch(), min_size=1, max_size=6),
    _families(st.one_of(_patch(), constants)),
)
copies = st.one_of(
    _families(_resample()),
    _families(st.one_of(_resample(), constants)),
    # Patches change the prompt of a text, too.
    _families(
        st.one_of(
            _resample(), layers.map(lambda layer: patch("resid_pre", layer, 0, source_pos=-1))
        )
    ),
)
