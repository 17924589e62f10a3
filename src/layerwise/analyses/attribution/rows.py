"""The parts of a direct logit attribution as rows, of either kind of models.

What they are worth is worked out in ``decompose`` and ``decompose_seq2seq``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float

from .decompose import Direct, Values
from .decompose_seq2seq import DirectSeq2Seq

METRICS = ("logit_diff", "logprob")


class _Rows(NamedTuple):
    """Some parts of one component: its name, the layer and head of each, and their values."""

    component: str
    places: list[tuple[int | None, int | None]]
    values: Float[torch.Tensor, "item metric part"]


def as_table(
    items: Sequence[str],
    value: Values,
    parts: Direct | DirectSeq2Seq,
    entropy: Float[torch.Tensor, " item"],
) -> pd.DataFrame:
    """One row per item, metric and part; the total is the last of each."""
    less = torch.stack([torch.zeros_like(entropy), -entropy], dim=1)
    rows = [
        *(_of_two_stacks(parts) if isinstance(parts, DirectSeq2Seq) else _of_one_stack(parts)),
        _single("entropy", less),
        _single("total", value + less),
    ]
    names = [(one.component, *place) for one in rows for place in one.places]
    values = torch.cat([one.values for one in rows], dim=2).cpu().numpy()
    index = pd.MultiIndex.from_product([items, METRICS, range(len(names))])
    item, metric, part = (index.get_level_values(level) for level in range(3))
    listed = pd.DataFrame(names, columns=["component", "layer", "head"]).astype(
        {"layer": "Int64", "head": "Int64"}
    )
    found = listed.iloc[part].reset_index(drop=True)
    return found.assign(item=item, metric=metric, value=values.ravel())


def _of_one_stack(parts: Direct) -> Iterator[_Rows]:
    for component in ("attn_out", "mlp_out", "attn_bias"):
        yield _layers(component, getattr(parts, component))
    yield _heads("z", parts.heads)
    for component in ("embedding", "norm_bias", "unembed_bias"):
        yield _single(component, getattr(parts, component))


def _of_two_stacks(parts: DirectSeq2Seq) -> Iterator[_Rows]:
    """Layers are numbered in the order of computation, the encoder's first."""
    encoder, decoder, cross = parts.encoder, parts.decoder, parts.cross
    first = encoder.attn_out.shape[2]
    for component in ("attn_out", "mlp_out", "attn_bias"):
        both = torch.cat([getattr(one, component) for one in (encoder, decoder)], dim=2)
        yield _layers(component, both)
    yield _heads("z", encoder.heads)
    yield _heads("z", decoder.heads, first)
    if parts.post_norm:
        both = torch.cat([encoder.layer_norm_bias, decoder.layer_norm_bias], dim=2)
        yield _layers("norm_bias", both)
    yield _layers("cross_attn_out", cross.out, first)
    yield _layers("cross_attn_bias", cross.bias, first)
    yield _layers("cross_v_bias", cross.value_bias, first)
    yield _heads("cross_z", cross.heads, first)
    yield _single("encoder_embedding", encoder.embedding)
    yield _single("encoder_norm_bias", encoder.norm_bias)
    yield _single("embedding", decoder.embedding)
    yield _single("norm_bias", decoder.norm_bias)
    yield _single("unembed_bias", parts.unembed_bias)


def _layers(
    component: str, values: Float[torch.Tensor, "item metric layer"], first: int = 0
) -> _Rows:
    return _Rows(component, [(first + n, None) for n in range(values.shape[2])], values)


def _heads(
    component: str, values: Float[torch.Tensor, "item metric layer head"], first: int = 0
) -> _Rows:
    n_layers, n_heads = values.shape[2:]
    places = [(first + layer, head) for layer in range(n_layers) for head in range(n_heads)]
    return _Rows(
        component,
        [*places],
        rearrange(values, "item metric layer head -> item metric (layer head)"),
    )


def _single(component: str, value: Values) -> _Rows:
    return _Rows(component, [(None, None)], value[:, :, None])
