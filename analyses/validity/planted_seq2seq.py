"""Findings of each method in wired encoder-decoders, beside what was planted.

Ablation is here, all other methods in ``wired_methods_seq2seq``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import wired_methods_seq2seq
from wired_methods import Row

import layerwise as lw
from analyses.validity.wired_truth_seq2seq import PlantedSeq2Seq
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.seq2seq import Seq2SeqModel

N_LAYOUTS, N_ITEMS, SEED = 6, 24, 0
BY_HEAD = ("z", "cross_z")
CHANGES = (
    ("skip", "layer"), ("skip", "attn_out"), ("skip", "cross_attn_out"), ("skip", "mlp_out"),
    ("resample", "attn_out"), ("resample", "cross_attn_out"), ("resample", "mlp_out"),
    ("zero", "z"), ("zero", "cross_z"), ("resample", "z"), ("resample", "cross_z"),
)  # fmt: skip
BOTH = ("continuation", "generate")


def measure() -> pd.DataFrame:
    """One row per model, method and capability; the first model has the default layout.

    Returns:
        ``model``, ``n_encoder_layers``, ``n_layers``, ``n_heads`` (of the stack that has more),
        ``method``, ``capability``, ``planted`` and ``found`` (layers in the order of computation;
        heads as layer times ``n_heads`` and head; half-effect depths in halves of a layer),
        ``same``.
    """
    rng = np.random.default_rng(SEED)
    layouts = [WiredSeq2SeqLayout(), *(random_layout(rng) for _ in range(N_LAYOUTS - 1))]
    rows = []
    for which, layout in enumerate(layouts):
        model = wired_seq2seq_model(layout, seed=which)
        for method, capability, planted, found in _found_rows(model, layout):
            rows.append(
                {
                    "model": which, "n_encoder_layers": layout.n_encoder_layers,
                    "n_layers": layout.n_layers, "n_heads": model.cfg.n_heads, "method": method,
                    "capability": capability, "planted": planted, "found": found,
                    "same": planted == found,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def random_layout(rng: np.random.Generator) -> WiredSeq2SeqLayout:
    """Mechanisms in any order that works, with idle layers between them."""
    n_encoder, n_decoder = int(rng.integers(5, 10)), int(rng.integers(4, 8))
    heads = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    first = sorted(rng.permutation(n_encoder)[:4].tolist())
    facts = first.pop(int(rng.integers(4)))
    begin, copy, say = sorted((n_encoder + rng.permutation(n_decoder)[:3]).tolist())
    places = (*first, facts, begin, copy)
    spots = [Spot(k, int(rng.integers(heads[k >= n_encoder]))) for k in places]
    names = ("previous", "look_up", "second_hop", "facts", "begin", "copy")
    return WiredSeq2SeqLayout(
        n_encoder, n_decoder, *heads, **dict(zip(names, spots, strict=True)), say=say
    )


def _found_rows(model: Seq2SeqModel, layout: WiredSeq2SeqLayout) -> Iterator[Row]:
    options = {"limit": N_ITEMS, "progress": False}
    for kind, site in CHANGES:
        protocols = BOTH if kind == "skip" else "continuation"
        result = lw.ablate(model, "all", protocols, kind=kind, site=site, **options)
        for (protocol, capability), group in result.effects().groupby(["protocol", "capability"]):
            truth = PlantedSeq2Seq(layout, str(capability))
            needed, n_heads = group.loc[group["significant"]], model.cfg.n_heads
            if site in BY_HEAD:
                spots = truth.critical_heads(site, kind)
                planted = [spot.layer * n_heads + spot.head for spot in spots]
                found = needed["layer"] * n_heads + needed["head"]
            else:
                planted, found = truth.critical(site, kind), needed["layer"]
            method = f"{kind} {site}, {protocol}"
            yield method, str(capability), sorted(planted), sorted(map(int, found))
    yield from wired_methods_seq2seq.method_rows(model, layout, options)
