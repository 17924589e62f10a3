"""Made-up costs of sets of layers, whose interactions are known, as results."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from layerwise.analyses.interactions.result import InteractionsResult
from layerwise.storage.parquet import frame
from tests.synthetic import facts, task_facts

Costs = dict[tuple[int, ...], np.ndarray]


def with_pairs(singles: np.ndarray, pairs: np.ndarray) -> Costs:
    """Costs by set: ``singles`` has a column per layer, ``pairs`` what each pair adds to them."""
    layers = range(singles.shape[1])
    found: Costs = {(layer,): singles[:, layer] for layer in layers}
    for column, (one, other) in enumerate(combinations(layers, 2)):
        found[one, other] = singles[:, one] + singles[:, other] + pairs[:, column]
    return found


def interactions_result(
    nats: Costs,
    margin: Costs | None = None,
    right: Costs | None = None,
    *,
    task: str = "keys",
    capability: str = "retrieval",
    protocol: str = "continuation",
    accuracy: float = 1.0,
    orders: pd.DataFrame | None = None,
    n_encoder: int = 0,
) -> InteractionsResult:
    """A result with these costs by set of layers and item; ``margin`` is that of nats if None.

    ``right`` says whether an item is right without the set; as in the intact model if None.
    """
    margin = nats if margin is None else margin
    n = len(next(iter(nats.values())))
    intact = np.arange(n) < round(accuracy * n)
    columns = {(): (0 * np.zeros(n), 0 * np.zeros(n), intact)} | {
        layers: (nats[layers], margin[layers], intact if right is None else right[layers])
        for layers in nats
    }
    tables = [
        pd.DataFrame(
            {
                "intervention": f"skip:layers={'+'.join(map(str, layers))}" if layers else "intact",
                "site": "layer",
                "layers": [list(layers)] * n,
                "heads": None,
                "task": task,
                "capability": capability,
                "item": [f"{task}/{i:04d}" for i in range(n)],
                "protocol": protocol,
                "correct": np.asarray(correct, dtype=bool),
                "gold_logprob": -0.5 - lost,
                "margin": 4.0 - lost_margin,
            }
        )
        for layers, (lost, lost_margin, correct) in columns.items()
    ]
    n_layers = 1 + max(layer for layers in nats for layer in layers)
    known = facts(task_facts(task, capability, n_items=n), n_layers=n_layers, protocols=(protocol,))
    model = known.model.model_copy(update={"n_encoder_layers": n_encoder})
    return InteractionsResult(
        pd.concat(tables, ignore_index=True),
        frame("interaction_orders", []) if orders is None else orders,
        known.model_copy(update={"model": model}),
    )


def joined_results(*results: InteractionsResult) -> InteractionsResult:
    """Several tasks or protocols in one result."""
    first = results[0]
    known = first.facts.model_copy(
        update={"tasks": tuple(task for one in results for task in one.facts.tasks)}
    )
    table = pd.concat([one.interactions for one in results], ignore_index=True)
    return InteractionsResult(table, first.interaction_orders, known)
