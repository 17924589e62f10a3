"""What to do with an order of removal: the layers by name, what was not tested, how to write it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import pandas as pd

from layerwise.ground.layer_names import layer_name
from layerwise.presentation.items import independent
from layerwise.presentation.power import could_be_found
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import PROTOCOL_ORDER, capitalised, counted, joined, when
from layerwise.storage.provenance import Facts
from layerwise.tasks.registry import is_suite

from .tables import BLOCKS

Orders = Mapping[tuple[str, str], Sequence[Sequence[int]]]


def next_steps(orders: Orders, curves: pd.DataFrame, facts: Facts) -> Iterator[str]:
    """Sentences under the table of an order, the command that writes the model last."""
    made = {key: steps[-1] for key, steps in orders.items() if steps}
    if not made:
        return
    n_encoder = facts.model.n_encoder_layers
    for (by, protocol), layers in made.items():
        names = ", ".join(layer_name(layer, n_encoder) for layer in layers)
        order = "" if by in BLOCKS else " in this order"
        yield f"Removed{order} ({by}, chosen {when(protocol)}): {names}."
    protocols = [name for name in PROTOCOL_ORDER if name in {name for _, name in made}]
    yield from _untested(protocols, facts)
    yield from _power(curves)
    (by, protocol), layers = next(iter(made.items()))
    command = prune_command(layers, protocols, facts)
    if command:
        several = f" ({by}, chosen {when(protocol)})" if len(made) > 1 else ""
        yield f"Write the model without these layers{several}, and test it:\n  {command}"


def _untested(protocols: Sequence[str], facts: Facts) -> Iterator[str]:
    """That other ways of scoring may lose more."""
    others = _others(protocols, facts)
    if others:
        yield f"They may cost more {joined(map(when, others))}, which was not tested."
    if len(protocols) > 1:
        yield "Each way of scoring has its own order; what one chose may cost another more."


def _others(protocols: Sequence[str], facts: Facts) -> list[str]:
    """Protocols that every task can be asked under, beside some."""
    every = [set(task.chance) for task in facts.tasks]
    known = set.intersection(*every) if every else set()
    return [name for name in PROTOCOL_ORDER if name in known and name not in protocols]


def _power(curves: pd.DataFrame) -> Iterator[str]:
    """The smallest loss that the held-out items would have shown."""
    if curves.empty:
        yield "The held-out items show no signal, so no loss could be shown on them."
        return
    for protocol in [name for name in PROTOCOL_ORDER if name in set(curves["protocol"])]:
        mine = rows(curves, protocol=protocol)
        n, n_steps = independent(mine), len(set(mine["step"]))
        found = could_be_found(n, n_steps)
        yield f"{capitalised(when(protocol))}, with {counted(n, 'held-out item')} {found}."


def prune_command(layers: Sequence[int], protocols: Sequence[str], facts: Facts) -> str:
    """The command that writes the model without layers; empty if model or tasks have no name."""
    model = facts.model
    made = any(task.source == "built-in" and not is_suite(task.name) for task in facts.tasks)
    if made or model.source == "user":  # in Python
        return ""
    removed = ",".join(layer_name(layer, model.n_encoder_layers) for layer in sorted(layers))
    words = ["layerwise", "prune", model.name, "--remove", removed]
    for task in facts.tasks:
        words += ["--task", task.name if task.source == "built-in" else task.source]
    for protocol in (*protocols, *_others(protocols, facts)):
        words += ["--protocol", protocol]
    words += ["--limit", str(max((task.n_items for task in facts.tasks), default=10))]
    words += ["--dtype", model.dtype] if model.dtype != "float32" else []
    return shlex.join([*words, "--out", f"{PurePath(model.name).name}-without-{len(layers)}"])
