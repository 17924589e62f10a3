"""Words for numbers, layers and interventions, in sentences, captions and tables.

Nothing here computes a statistic, and nothing here knows HTML or matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from layerwise.errors import count_noun as count_noun

from .naming import name_layer, stacks

_WHEN = {"letter": "picks a letter", "continuation": "chooses", "generate": "writes"}
PROTOCOL_ORDER = tuple(_WHEN)
WAY = "way of scoring"  # the head of a column of protocols in words
# Scoring steps that are no protocols, as claims name them.
_STEPS = {
    "choice": _WHEN["continuation"],
    "first token": "first word",
    "teacher forcing": "each word",
}
RUNG_ORDER = ("letter", "margin", "choice", "first token", "teacher forcing", "generate")
CAPABILITY_ORDER = ("retrieval", "knowledge", "reasoning", "coherence")
MINUS = "−"
Name = TypeVar("Name")
LAYER_MAIN = ("skip", "layer")
# Stretches of layers that a claim of 25 words has room for, and how many it names of more.
_MOST_STRETCHES, _NAMED_STRETCHES = 5, 3

_SITE_WORDS = {
    "attn_out": "the attention output",
    "cross_attn_out": "the cross-attention output",
    "resid_mid_cross": "the residual stream behind cross-attention",
    "mlp_out": "the MLP output",
    "resid_pre": "the residual stream before",
    "resid_mid": "the residual stream within",
    "resid_post": "the residual stream after",
}
SUBLAYER_WORDS = {
    "attn_out": "attention",
    "cross_attn_out": "cross-attention",
    "mlp_out": "MLP",
}
HEAD_WORDS = {"z": "head", "kv_group": "key/value group", "cross_z": "cross-attention head"}
_WHOLE = ("layer", *HEAD_WORDS)
_DOING = {
    "skip": "skipping {}",
    "zero": "setting {} to zero",
    "mean": "setting {} to its mean",
    "resample": "resampling {}",
    "noise": "adding noise to {}",
}


def in_order(names: Iterable[Name], order: tuple[Name, ...]) -> list[Name]:
    """The distinct names, those of ``order`` first and in its order, the rest as they come."""
    present = list(dict.fromkeys(names))
    known = [name for name in order if name in present]
    return known + [name for name in present if name not in order]


def number(value: float, digits: int = 0) -> str:
    """A number with a true minus sign and no negative zero; ∞ or ? where there is no number."""
    if pd.isna(value):
        return "?"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval(estimate: float, low: float, high: float, digits: int = 0) -> str:
    """``"88 [80, 95]"``: an estimate with its 95 % interval, or ``"88 (no interval)"``."""
    # Decimals are added, two at most, where bounds that differ would look the same.
    if pd.isna(low) and pd.isna(high):
        return f"{number(estimate, digits)} (no interval)"
    if digits and low < high:
        ways = (digits, digits + 1, digits + 2)
        digits = next((each for each in ways if number(low, each) != number(high, each)), digits)
    return f"{number(estimate, digits)} [{number(low, digits)}, {number(high, digits)}]"


def percent(estimate: float, low: float, high: float) -> str:
    """``"88 [80, 95] %"`` from shares between 0 and 1."""
    return f"{interval(100 * estimate, 100 * low, 100 * high)} %"


def share_lost_words(share: float) -> str:
    """``"88 %"``, ``"nothing"`` or ``"all"`` of a score above its floor; no more can be lost."""
    return "nothing" if share < 0.005 else "all" if share > 1 else f"{number(100 * share)} %"


def p_value(p: float) -> str:
    """``"p = 0.012"``, or ``"p < 0.001"`` where rounding would make it nothing."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def join_words(parts: Iterable[str]) -> str:
    """``"a, b and c"``."""
    items = list(parts)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def spread(values: Iterable[Any]) -> str:
    """``"60"`` or ``"40–60"``: one number if all are equal, their range if not."""
    numbers = sorted({int(value) for value in values})
    if not numbers:
        return "0"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def count_range(values: Iterable[Any], noun: str) -> str:
    """``"1 item"``, ``"60 items"`` or ``"40–60 items"``."""
    numbers = spread(values)
    return f"{numbers} {noun}" if numbers == "1" else f"{numbers} {noun}s"


def layer_ranges(layers: Iterable[Any]) -> str:
    """Layers as ranges within a stack: ``"0–2, 7 and 10–12"``; two neighbours are both named."""
    runs = _runs(layers, stacks().n_encoder)
    return join_words(part for run in runs for part in _parts(run, name_layer)) or "none"


def few_layers(layers: Sequence[int], noun: str = "layer") -> str:
    """``"layers 0–2, 7 and 11"``; of many stretches the first are named."""
    stretches = layer_ranges(layers).replace(" and ", ", ").split(", ")
    noun = f"{noun}{'s' * (len(layers) > 1)} " if noun else ""
    if len(stretches) > _MOST_STRETCHES:
        rest = len(stretches) - _NAMED_STRETCHES
        return f"{noun}{', '.join(stretches[:_NAMED_STRETCHES])} and {rest} more"
    return f"{noun}{join_words(stretches)}"


def ranges(numbers: Iterable[Any]) -> str:
    """Numbers as contiguous ranges: ``"0–3 and 6"``."""
    return join_words(part for run in _runs(numbers, None) for part in _parts(run, str)) or "none"


def _runs(numbers: Iterable[Any], apart: int | None) -> list[list[int]]:
    """Numbers that follow one another; a run never goes on at ``apart``."""
    runs: list[list[int]] = []
    for number in sorted({int(each) for each in numbers}):
        if runs and number == runs[-1][-1] + 1 and number != apart:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _parts(run: list[int], name: Callable[[int], str]) -> list[str]:
    if len(run) < 3:
        return [name(part) for part in run]
    return [f"{name(run[0])}–{name(run[-1]).rpartition('.')[2]}"]


def writes(protocol: str) -> str:
    """``"writes"``: what a model does under a protocol."""
    return _WHEN[protocol]


def protocol_words(name: str) -> str:
    """``"chooses"``, ``"each word"``: a protocol or a scoring step in short; others as named."""
    return {**_WHEN, **_STEPS}.get(name, name)


def protocol_phrase(protocol: str) -> str:
    """``"when it chooses"``: how a model answers under a protocol."""
    return f"when it {writes(protocol)}"


def intervention_phrase(kind: str, site: str, where: str) -> str:
    """An intervention as the subject of a sentence."""
    place = _SITE_WORDS.get(site, site)
    target = f"{place} {where}" if place.startswith("the residual") else f"{place} of {where}"
    return _DOING.get(kind, f"{kind} at {{}}").format(where if site in _WHOLE else target)


def capitalise(text: str) -> str:
    """The text with its first letter in upper case and the rest left alone."""
    return text[:1].upper() + text[1:]


def item_counts_text(data: pd.DataFrame | Mapping[str, Any]) -> str:
    """``"80 in 40 clusters over 5 draws of the examples"``, as far as there are such."""
    table = data if isinstance(data, pd.DataFrame) else pd.DataFrame([dict(data)])
    items, clusters = spread(table["n_items"]), spread(_independent(table))
    text = items if items == clusters else f"{items} in {clusters} clusters"
    if "n_examples" not in table:
        return text
    draws = pd.Series(table["n_examples"]).dropna()
    several = len(draws) and int(draws.max()) > 1
    return f"{text} over {spread(draws)} draws of the examples" if several else text


def independent(table: pd.DataFrame) -> int:
    """The fewest clusters that a row stands on: what tests and intervals take for a sample."""
    return int(_independent(table).min())


def _independent(table: pd.DataFrame) -> np.ndarray:
    items = table["n_items"].to_numpy(dtype=float)
    if "n_clusters" not in table:
        return items
    clusters = table["n_clusters"].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isnan(clusters), items, clusters)
