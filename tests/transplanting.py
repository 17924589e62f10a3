"""Two models and each with layers of the other: wired pairs, questions, made-up answers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.analyses.transplant.exchange.names import BASE, HOSTS, OTHER
from layerwise.analyses.transplant.result import TransplantResult
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import model_blocks
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.report.html import findings
from layerwise.storage.parquet import conform, frame
from layerwise.tasks import build_requests
from tests.analysis import word_task
from tests.synthetic import facts, task_facts

LAYOUT = WiredLayout(
    n_layers=5, n_heads=2, previous=Spot(0, 1), look_up=Spot(1, 0), facts=Spot(2, 1),
    second_hop=Spot(3, 0), gate=Spot(4, 1),
)  # fmt: skip


def silence_parts(model: Any, *parts: tuple[int, str]) -> Any:
    """A copy of a model whose parts of some layers compute next to nothing."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        for layer, site in parts:
            for weight in parts_of_block(broken, model_blocks(broken)[layer])[site]:
                weight.mul_(1e-6)
    return broken


def assert_single_carrier(result: Any, words: str, layer: int, head: int | None = None) -> None:
    """One place brings all of the gap and destroys all of it; no other moves anything."""
    effects = result.effects()
    assert set(effects["direction"]) == {"brings", "destroys"}
    for _, of in effects.groupby(["host", "protocol"]):
        here = (of["layer"] == layer) & ((of["head"] == head) if head is not None else True)
        assert of.loc[here, "share"].item() == pytest.approx(1)
        assert of.loc[~here, "moved"].eq(0).all()
        assert list(of["significant"]) == list(here)
    assert result.ranks()["rho"].eq(1).all()
    assert any(f"lies in {words}." in one.short for one in findings([result]))


def exchange(model: Any, other: Any, task: Any, *protocols: Any, **options: Any) -> Any:
    return lw.transplant(model, other, task, *protocols, progress=False, **options)


def word_requests(
    model: Any, protocols: Sequence[str] = ("continuation", "generate"), n: int = 2
) -> list[Any]:
    """The requests of a few questions about words."""
    tokenizer, task = original_tokenizer(model), word_task(n)
    return [
        one.request
        for item in task.items
        for protocol in protocols
        for one in build_requests(task, item, protocol, tokenizer)
    ]


Right = np.ndarray
Place = int | tuple[int, int]
"""A layer, or a layer and a head."""


def transplant_result(
    base: Right,
    other: Right,
    changed: Mapping[str, Mapping[Place, Right]],
    *,
    task: str = "keys",
    capability: str = "retrieval",
    protocol: str = "continuation",
    distances: Mapping[int, float] | None = None,
    site: str = "layer",
    exchange: str = "weights",
    n_encoder: int = 0,
) -> TransplantResult:
    """A result with these answers, by item.

    ``changed``: by host and layer, or head, whether the host is right with that of the other.
    ``distances`` of weights are the layers' numbers if None.
    """
    intact = dict(zip(HOSTS, (base, other), strict=True))
    table = _table(intact, changed, site)
    table["exchange"] = np.where(table["kind"] == "transplant", exchange, None)
    asked = {"task": task, "capability": capability, "protocol": protocol}
    table = table.assign(**asked)
    places = {_layer_and_head(place) for of in changed.values() for place in of}
    layers = sorted({layer for layer, _ in places})
    far = distances or {layer: float(layer) for layer in layers}
    apart = [
        {"site": site, "layer": k, "head": head, "n_parameters": 10, "norm": 1.0,
         "distance": far[k]}
        for k, head in sorted(places, key=str)
    ]  # fmt: skip
    known = facts(
        task_facts(task, capability, n_items=len(base)),
        n_layers=max(layers, default=7) + 1, protocols=(protocol,), settings={"other": "trained"},
    )  # fmt: skip
    model = known.model.model_copy(update={"n_encoder_layers": n_encoder})
    return TransplantResult(
        conform("transplant", table),
        frame("transplant_distances", apart),
        known.model_copy(update={"model": model}),
    )


def _layer_and_head(place: Place) -> tuple[int, int | None]:
    return place if isinstance(place, tuple) else (place, None)


def _id(layer: int, head: int | None) -> str:
    return f"transplant:layer={layer}" if head is None else f"transplant:layer={layer},head={head}"


def _table(
    intact: Mapping[str, Right], changed: Mapping[str, Mapping[Place, Right]], site: str
) -> pd.DataFrame:
    """Records of both models as they are, and with each layer of the other."""
    columns = [(host, None, right) for host, right in intact.items()]
    columns += [(host, place, right) for host, of in changed.items() for place, right in of.items()]
    n, right = len(intact[BASE]), np.concatenate([one[2] for one in columns]).astype(bool)

    def repeated(values: list) -> list:
        return [value for value in values for _ in range(n)]

    places = [(None, None) if one is None else _layer_and_head(one) for _, one, _ in columns]
    layers, heads = ([place[i] for place in places] for i in range(2))
    is_changed = [layer is not None for layer in layers]
    named = ["intact" if place == (None, None) else _id(*place) for place in places]
    nulls = dict.fromkeys(("correct_norm", "margin", "generated", "extracted", "chosen", "cluster"))
    return pd.DataFrame(
        {
            "host": repeated([host for host, *_ in columns]),
            "intervention": repeated(named),
            "kind": repeated(["transplant" if c else "intact" for c in is_changed]),
            "set": repeated(["single" if c else None for c in is_changed]),
            "site": repeated([site if c else None for c in is_changed]),
            "layer": pd.array(repeated(layers), dtype="Int64"),
            "layers": repeated([[] if k is None else [k] for k in layers]),
            "head": pd.array(repeated(heads), dtype="Int64"),
            "heads": repeated([None if h is None else [h] for h in heads]),
            "split": None,
            "step": pd.array([None] * len(right), dtype="Int64"),
            "t": repeated([1.0 if c else None for c in is_changed]),
            "item": [f"{i:04d}" for i in range(n)] * len(columns),
            "correct": right,
            "gold_logprob": np.where(right, -0.5, -2.5),
            **nulls,
        }
    )


def answers_of_both(changed: Mapping[Place, Right], returned: Mapping[Place, Right]) -> dict:
    """Answers of the base with layers of the other, and of the other with layers of the base."""
    return {BASE: changed, OTHER: returned}


def joined_results(*results: TransplantResult) -> TransplantResult:
    """Several tasks or protocols in one result."""
    first = results[0]
    known = first.facts.model_copy(
        update={"tasks": tuple(task for one in results for task in one.facts.tasks)}
    )
    table = pd.concat([one.transplant for one in results], ignore_index=True)
    return TransplantResult(table, first.transplant_distances, known)


def with_activations(weights: TransplantResult, streams: TransplantResult) -> TransplantResult:
    """The same items with weights exchanged, and with activations."""
    changed = streams.transplant.loc[streams.transplant["kind"] == "transplant"]
    named = changed["intervention"].str.replace("transplant:", "transplant:activations,")
    table = pd.concat([weights.transplant, changed.assign(intervention=named)], ignore_index=True)
    return TransplantResult(table, weights.transplant_distances, weights.facts)


def assert_answers_equal(found: Any, plain: Any) -> None:
    """The same texts, and log-probabilities to 1e-4 nats."""
    for one, reference in zip(found, plain, strict=True):
        if hasattr(one, "tokens"):
            assert one.tokens == reference.tokens
        else:
            np.testing.assert_allclose(one.token_logprobs, reference.token_logprobs, atol=1e-4)
