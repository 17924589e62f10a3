"""What exchanged layers, parts and heads are called in sentences and tables of text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.analyses.ablation.saved_effects import set_name
from layerwise.presentation.claim import ESTABLISHED, Estimate
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import every_test, n_tests, together
from layerwise.presentation.rows import asked_of
from layerwise.presentation.wording import (
    HEAD_WORDS,
    SUBLAYER_WORDS,
    capitalised,
    layer_ranges,
    number,
    when,
)
from layerwise.storage.run_tables import RunTables

from .names import (
    ACTIVATIONS,
    BASE,
    BY_HEAD,
    DESTROYS,
    EMBED,
    FINAL_NORM,
    NORMS,
    OF_NO_LAYER,
    RELATIVE,
    TIED,
    TOGETHER,
    UNEMBED,
)

Row = dict[str, Any]
_OUTSIDE = {
    EMBED: "the embeddings",
    TIED: "the embeddings tied to the unembedding",
    UNEMBED: "the unembedding",
    FINAL_NORM: "the final norm",
    RELATIVE: "the relative position biases",
}
_PARTS = SUBLAYER_WORDS | {NORMS: "norms"}
_PLURAL = (EMBED, TIED, RELATIVE, NORMS)
KIND = "transplant"
_LONGEST = 7
NOUNS = {True: "the base", False: "the other model"}


def place_of(row: Row) -> str:
    """``7.3``: the layer and number of the one head."""
    return f"{name_layer(row['layer'])}.{int(row['head'])}"


def set_of(row: Row) -> str:
    """``3–5``, or of heads ``2: 0–3; 5: 1``, of one ``7.3``; nothing outside of the layers."""
    if row["site"] in OF_NO_LAYER:
        return ""
    if row["site"] not in BY_HEAD:
        return layer_ranges(row["layers"])
    layers, heads = row["layers"], row["heads"]
    if len(heads) == 1:
        return f"{name_layer(layers[0])}.{int(heads[0])}"
    return set_name(layers, [int(head) for head in heads])


def what_of(row: Row) -> str:
    """``layer 3``, ``layers 3–5 together``, ``attention of layer 3``, ``the embeddings``."""
    if row["site"] in OF_NO_LAYER:
        return _OUTSIDE[row["site"]]
    if row["exchange"] == ACTIVATIONS:
        return _activations_of(row)
    site, several = str(row["site"]), len(row["layers"]) > 1
    all_of = " together" if row["set"] == TOGETHER and several else ""
    if site in BY_HEAD:
        return f"{HEAD_WORDS[site]}{'s' if several else ''} {set_of(row)}{all_of}"
    part = "" if site == "layer" else f"{part_words(site)} of "
    return f"{part}{'layers' if several else 'layer'} {set_of(row)}{all_of}"


def _activations_of(row: Row) -> str:
    """``the residual stream after layer 3``, ``the MLP output of layer 3``."""
    site, several = str(row["site"]), len(row["layers"]) > 1
    all_of = " together" if row["set"] == TOGETHER and several else ""
    layers = f"{'layers' if several else 'layer'} {set_of(row)}{all_of}"
    if site == "layer":
        return f"the residual stream after {layers}"
    outputs = "outputs" if several else "output"
    if site in BY_HEAD:
        return f"the {outputs} of {HEAD_WORDS[site]}{'s' if several else ''} {set_of(row)}{all_of}"
    return f"the {part_words(site)} {outputs} of {layers}"


def is_plural(row: Row) -> bool:
    """Whether ``what_of`` takes a verb in the plural."""
    if row["exchange"] == ACTIVATIONS:
        return len(row["layers"]) > 1 and row["site"] != "layer"
    several = len(row["layers"]) > 1 and row["site"] in ("layer", *BY_HEAD)
    return several or row["site"] in _PLURAL


def order_of(row: Row) -> str:
    """``3, 1, 4`` or ``7.3, 2.0``: what was chosen, one after the other."""
    layers = [name_layer(layer) for layer in row["layers"]]
    if row["site"] not in BY_HEAD:
        return ", ".join(layers)
    return ", ".join(f"{a}.{int(b)}" for a, b in zip(layers, row["heads"], strict=True))


def noun_of(site: str) -> str:
    """What one exchanged piece is called: ``layer``, ``head``, ``part of a layer``."""
    return "layer" if site == "layer" else HEAD_WORDS.get(site, "part of a layer")


def counted_noun(site: str, n: int) -> str:
    """The same after a number: of parts of layers the layers are counted."""
    noun = HEAD_WORDS.get(site, "layer")
    return noun if n == 1 else f"{noun}s"


def part_words(site: str) -> str:
    """``attention``, ``MLP``, ``norms``: what of a layer."""
    return _PARTS[site]


def models_of(row: Row) -> tuple[str, str]:
    """The better model and the other, in words."""
    base_is_better = (row["host"] == BASE) == (row["direction"] == DESTROYS)
    return NOUNS[base_is_better], NOUNS[not base_is_better]


def named_models(run: RunTables) -> tuple[str, ...]:
    """A sentence with the names of the two models, where they have different ones."""
    base, other = run.facts.model.name, run.facts.settings.get("other")
    return () if base == other else (f"The base is {base}, the other model {other}.",)


def where(row: Row) -> str:
    """``"in keys when it chooses"``."""
    return f"in {row['task']} {when(row['protocol'])}"


def brief(what: str, row: Row) -> str:
    """What was put in; of a long list how many."""
    n = len(row["layers"])
    return what if len(what.split()) <= _LONGEST else f"{n} {counted_noun(row['site'], n)} together"


def put_in(what: str, row: Row, *, is_plural: bool) -> str:
    """What a change brings or destroys, in a sentence."""
    better, worse = models_of(row)
    host, giver = (better, worse) if row["direction"] == DESTROYS else (worse, better)
    verb = row["direction"][:-1] if is_plural else row["direction"]
    points = number(100 * row["moved"])
    start = f"{capitalised(brief(what, row))} of {giver}, put into {host},"
    return f"{start} {verb} {points} points {where(row)}."


def measured(row: Row, every: pd.DataFrame) -> dict[str, Any]:
    """What a change moves, over all changes of the run, as a claim has it."""
    moved, low, high = (100 * float(row[name]) for name in ("moved", "run_low", "run_high"))
    verb = f"accuracy points {'destroyed' if row['direction'] == DESTROYS else 'brought'}"
    return asked_of(pd.DataFrame([row])) | {
        "kind": KIND,
        "evidence": ESTABLISHED,
        "layers": tuple(map(int, row["layers"])),
        "estimate": Estimate(moved, low, high, verb, together(every)),
        "p": float(row["p_run"]),
        "test": "exact McNemar test, and against guessing of what is brought; Holm over "
        f"{every_test(n_tests(every))} of the run",
    }
