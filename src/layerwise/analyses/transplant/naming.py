"""What exchanged layers, parts and heads are called in sentences and tables of text."""

from __future__ import annotations

from typing import Any

from layerwise.analyses.ablation.sets import set_name
from layerwise.presentation.naming import name_layer
from layerwise.presentation.wording import HEAD_WORDS, SUBLAYER_WORDS, layer_ranges

from .names import BY_HEAD, TOGETHER

Row = dict[str, Any]


def place_of(row: Row) -> str:
    """``7.3``: the layer and number of the one head."""
    return f"{name_layer(row['layer'])}.{int(row['head'])}"


def set_of(row: Row) -> str:
    """``3–5``, or of heads ``2: 0–3; 5: 1``, of one ``7.3``."""
    if row["site"] not in BY_HEAD:
        return layer_ranges(row["layers"])
    layers, heads = row["layers"], row["heads"]
    if len(heads) == 1:
        return f"{name_layer(layers[0])}.{int(heads[0])}"
    return set_name(layers, [int(head) for head in heads])


def what_of(row: Row) -> str:
    """``layer 3``, ``layers 3–5 together``, ``attention of layer 3``, ``head 7.3``."""
    site, several = str(row["site"]), len(row["layers"]) > 1
    all_of = " together" if row["set"] == TOGETHER and several else ""
    if site in BY_HEAD:
        return f"{HEAD_WORDS[site]}{'s' if several else ''} {set_of(row)}{all_of}"
    part = "" if site == "layer" else f"{SUBLAYER_WORDS[site]} of "
    return f"{part}{'layers' if several else 'layer'} {set_of(row)}{all_of}"


def is_plural(row: Row) -> bool:
    """Whether ``what_of`` takes a verb in the plural."""
    return len(row["layers"]) > 1 and row["site"] in ("layer", *BY_HEAD)


def noun_of(site: str) -> str:
    """What one exchanged piece is called: ``layer``, ``head``, ``part of a layer``."""
    return "layer" if site == "layer" else HEAD_WORDS.get(site, "part of a layer")


def counted_noun(site: str, n: int) -> str:
    """The same after a number: of parts of layers the layers are counted."""
    noun = HEAD_WORDS.get(site, "layer")
    return noun if n == 1 else f"{noun}s"
