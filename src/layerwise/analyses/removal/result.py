"""The typed result of orders of removal, its steps in words, and what to do with an order."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

import pandas as pd

from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.power import detectable_loss_text
from layerwise.presentation.rows import parts
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    independent,
    join_words,
    number,
    protocol_phrase,
    spread,
)
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import IN_MEMORY, Facts
from layerwise.tasks.registry import is_suite

from .tables import BLOCKS, candidates_table, curves_table, removed_label, signal_table, steps_table

Orders = Mapping[tuple[str, str], Sequence[Sequence[int]]]


@dataclass(frozen=True, repr=False, eq=False)
class RemovalResult(Result):
    """Orders of removing layers, and the accuracy that is left after each step.

    Attributes:
        removal: ``removal.parquet``: every answer of every candidate.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("removal",)
    title: ClassVar[str] = "Removal of layers: in which order, and what is left"
    if_empty: ClassVar[str] = (
        "No order is concluded: on the items to select by, the intact model is not better than "
        "blind."
    )

    removal: pd.DataFrame
    facts: Facts

    @property
    def orders(self) -> dict[tuple[str, str], list[tuple[int, ...]]]:
        """The layers left out at each step, by order and protocol; empty without signal.

        In orders of single layers the last one was added at the step.
        """
        return removal_orders(self.removal)

    @property
    def order(self) -> list[tuple[int, ...]]:
        """The one of ``orders``, if there is only one.

        Raises:
            UserError: if there are several.
        """
        if len(self.orders) > 1:
            names = ", ".join(f"{by} under {protocol}" for by, protocol in self.orders)
            raise UserError(
                f"There are several orders ({names}), and order is for one alone: take "
                "orders[by, protocol]."
            )
        return next(iter(self.orders.values()), [])

    @property
    def work(self) -> dict[str, float]:
        """Token-passes of all steps, those of one forward per candidate and request, seconds."""
        keys = ("token_passes", "brute_force_token_passes", "seconds")
        entries = [e for e in self.facts.work if e["analysis"] == "layer removal"]
        return {key: float(sum(entry[key] for entry in entries)) for key in keys}  # type: ignore[misc]

    @cache_tables
    def signal(self) -> pd.DataFrame:
        """As ``signal``: is the intact model better than blind, on items to select by?"""
        return signal_table(self.removal, self.facts.chance)

    @cache_tables
    def steps(self) -> pd.DataFrame:
        """``removal_steps``: the paired effect of each step, by split and task."""
        return steps_table(self.removal, self.facts.chance, self.facts.seed)

    @cache_tables
    def candidates(self) -> pd.DataFrame:
        """``removal_candidates``: what each candidate loses, and which was chosen."""
        return candidates_table(self.removal, self.facts.chance)

    @cache_tables
    def curves(self) -> pd.DataFrame:
        """``removal_curves``: what each step loses of a capability, on held-out items."""
        return curves_table(self.removal, self.facts.chance, self.facts.seed)

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``removal_steps``, ``removal_candidates`` and ``removal_curves``."""
        return {
            "removal_steps": self.steps(),
            "removal_candidates": self.candidates(),
            "removal_curves": self.curves(),
        }

    def _figure(self) -> Any:
        """Accuracy as layers are removed; a curve per order if there are several."""
        from .figures import removal_curve, removal_orders

        if len(self.orders) > 1:
            return draw_table(self, removal_orders, self.curves())
        return draw_table(self, removal_curve, self.steps())

    def notes(self) -> list[str]:
        """Layers removed in each order, what was not tested, and what to try without signal."""
        steps = next_steps(self.orders, self.curves(), self.facts)
        silent = no_signal.sentences(self.signal(), self.facts)
        more = [_MORE_TO_SELECT_BY] * bool(silent and self.facts.settings.get("held_out"))
        return [*held_out_words(self.facts), *steps, *silent, *more]

    def summary_rows(self) -> pd.DataFrame:
        """Each step's accuracy, where layers were selected and where they were not."""
        return in_short(self, STEPS, self.steps())


def removal_orders(removal: pd.DataFrame) -> dict[tuple[str, str], list[tuple[int, ...]]]:
    """The layers left out at each step, by order and protocol, from ``removal.parquet``."""
    orders: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    groups: Any = removal.groupby(["by", "protocol"], sort=False)
    for (by, protocol), group in groups:
        chosen = group.loc[group["chosen"]].drop_duplicates("step").sort_values(by="step")
        orders[str(by), str(protocol)] = [tuple(layers) for layers in chosen["layers"]]
    return orders


STEPS = (
    text_column("order", "by"),
    *plain("task", "protocol"),
    text_column("items", "split"),
    text_column("n", "n_items"),
    text_column("removed", "step"),
    Column("layer or block", lambda row: removed_label(row["by"], row["layers"], name_layer)),
    Column(
        "accuracy (%)",
        lambda row: f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}",
    ),
    estimate_column("change (points)", "acc_diff", "acc_diff_", -100),
    p_column("p (Holm)", "p_holm"),
    yes_no_column("significant", "significant"),
)


_MORE_TO_SELECT_BY = (
    "Signal is asked of the items to select by: give more items, or hold out fewer (--held-out "
    "0.2). With --held-out 0 all items select, and no loss is tested."
)


def held_out_words(facts: Facts) -> Iterator[str]:
    """A sentence on how many items selected layers, and how many were held out."""
    share = facts.settings.get("held_out")
    if not isinstance(share, float) or not share or not facts.tasks:
        return
    n_out = [round(share * task.n_items) for task in facts.tasks]
    selected = spread(task.n_items - n for task, n in zip(facts.tasks, n_out, strict=True))
    each = " of each task" * (len(facts.tasks) > 1)
    yield (
        f"Layers are selected by {selected} items{each}; the other {spread(n_out)} are held out "
        "and measure the loss (--held-out)."
    )


def next_steps(orders: Orders, curves: pd.DataFrame, facts: Facts) -> Iterator[str]:
    """Sentences under the table of an order, the command that writes the model last."""
    made = {key: steps[-1] for key, steps in orders.items() if steps}
    if not made:
        return
    n_encoder = facts.model.n_encoder_layers
    for (by, protocol), layers in made.items():
        names = ", ".join(layer_name(layer, n_encoder) for layer in layers)
        order = "" if by in BLOCKS else " in this order"
        yield f"Removed{order} ({by}, chosen {protocol_phrase(protocol)}): {names}."
    protocols = [name for name in PROTOCOL_ORDER if name in {name for _, name in made}]
    others = _other_protocols(protocols, facts)
    if others:
        yield (
            f"They may cost more {join_words(map(protocol_phrase, others))}, which was not tested."
        )
    if len(protocols) > 1:
        yield "Each way of scoring has its own order; what one chose may cost another more."
    yield from _power(curves)
    (by, protocol), layers = next(iter(made.items()))
    command = prune_command(layers, protocols, facts)
    if command:
        several = f" ({by}, chosen {protocol_phrase(protocol)})" if len(made) > 1 else ""
        yield f"Write the model without these layers{several}, and test it:\n  {command}"


def _other_protocols(protocols: Sequence[str], facts: Facts) -> list[str]:
    """Protocols that every task can be asked under, beside some."""
    every = [set(task.chance) for task in facts.tasks]
    known = set.intersection(*every) if every else set()
    return [name for name in PROTOCOL_ORDER if name in known and name not in protocols]


def _power(curves: pd.DataFrame) -> Iterator[str]:
    """The smallest loss that the held-out items would have shown."""
    if curves.empty:
        yield (
            "The held-out items show no signal, so no loss could be shown on them: give more "
            "items, or a larger --held-out."
        )
        return
    for (protocol,), of_protocol in parts(curves, protocol=PROTOCOL_ORDER):
        n, n_steps = independent(of_protocol), len(set(of_protocol["step"]))
        findable = detectable_loss_text(n, n_steps)
        yield (
            f"{capitalise(protocol_phrase(protocol))}, with "
            f"{count_noun(n, 'held-out item')} {findable}."
        )


def prune_command(layers: Sequence[int], protocols: Sequence[str], facts: Facts) -> str:
    """The command that writes the model without layers; empty if model or tasks have no name."""
    model = facts.model
    made = any(
        task.source == IN_MEMORY or (task.source == "built-in" and not is_suite(task.name))
        for task in facts.tasks
    )
    if made or model.source == "user":  # in Python
        return ""
    removed = ",".join(layer_name(layer, model.n_encoder_layers) for layer in sorted(layers))
    words = ["layerwise", "prune", model.name, "--remove", removed]
    for task in facts.tasks:
        words += ["--task", task.name if task.source == "built-in" else task.source]
    for protocol in (*protocols, *_other_protocols(protocols, facts)):
        words += ["--protocol", protocol]
    examples = {task.n_fewshot for task in facts.tasks}
    words += ["--fewshot", str(*examples)] if len(examples) == 1 else []
    words += ["--limit", str(max((task.n_items for task in facts.tasks), default=10))]
    words += ["--dtype", model.dtype] if model.dtype != "float32" else []
    return shlex.join([*words, "--out", f"{PurePath(model.name).name}-without-{len(layers)}"])
