"""The typed result of orders of removal, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd

from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.presentation import no_signal
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.notebook import intervals, number
from layerwise.storage.provenance import Facts

from .next_steps import next_steps
from .tables import (
    HELD_OUT,
    SELECTION,
    candidates_table,
    curves_table,
    removed_label,
    signal_table,
    steps_table,
)


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
        return {
            (str(group["by"].iloc[0]), str(group["protocol"].iloc[0])): _removed(group)
            for _, group in self.removal.groupby(["by", "protocol"], sort=False)
        }

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
        mine = [e for e in self.facts.work if e["analysis"] == "layer removal"]
        return {key: float(sum(entry[key] for entry in mine)) for key in keys}  # type: ignore[misc]

    @computed_once
    def signal(self) -> pd.DataFrame:
        """As ``signal.parquet``: is the intact model better than blind, on items to select by?"""
        split = SELECTION
        return signal_table(self.removal, self.facts.chance, split)

    @computed_once
    def steps(self) -> pd.DataFrame:
        """``removal_steps.parquet``: the paired effect of each step, by split and task."""
        return steps_table(self.removal, self.facts.chance, self.facts.seed)

    @computed_once
    def candidates(self) -> pd.DataFrame:
        """``removal_candidates.parquet``: what each candidate loses, and which was chosen."""
        return candidates_table(self.removal, self.facts.chance)

    @computed_once
    def curves(self) -> pd.DataFrame:
        """``removal_curves.parquet``: what each step loses of a capability, on held-out items."""
        return curves_table(self.removal, self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``removal_steps``, ``removal_candidates`` and ``removal_curves``."""
        return {
            "removal_steps": self.steps(),
            "removal_candidates": self.candidates(),
            "removal_curves": self.curves(),
        }

    def plot(self) -> Any:
        """Accuracy as layers are removed; a curve per order if there are several."""
        from .figures import removal_curve, removal_orders

        if len(self.orders) > 1:
            return drawn(self, removal_orders, self.curves())
        return drawn(self, removal_curve, self.steps())

    def notes(self) -> list[str]:
        """What was removed in which order, what was not tested, and what to try without signal."""
        steps = next_steps(self.orders, self.curves(), self.facts)
        return [*steps, *no_signal.sentences(self.signal(), self.facts)]

    def summary_rows(self) -> pd.DataFrame:
        """Each step's accuracy, where layers were selected and where they were not."""
        return removal_rows(self.steps(), self.facts.model.n_encoder_layers)


def _removed(order: pd.DataFrame) -> list[tuple[int, ...]]:
    chosen = order.loc[order["chosen"]].drop_duplicates("step")
    return [tuple(layers) for layers in chosen.sort_values(by="step")["layers"]]


def removal_rows(steps: pd.DataFrame, n_encoder: int = 0) -> pd.DataFrame:
    """Each step's accuracy on the items selected by, and the accuracy lost on those held out."""
    key = ["by", "task", "protocol", "step"]
    seen, held = (steps.loc[steps["split"] == split] for split in (SELECTION, HELD_OUT))
    joined = seen.merge(held, on=key, how="left", suffixes=("", "_held"))
    pairs = zip(joined["by"], joined["layers"], strict=True)
    name = partial(layer_name, n_encoder=n_encoder)
    bounds = ("acc_diff_held", "acc_diff_low_held", "acc_diff_high_held")
    return pd.DataFrame(
        {
            "order": joined["by"],
            "task": joined["task"],
            "protocol": joined["protocol"],
            "removed": joined["step"],
            "layer or block": [removed_label(by, layers, name) for by, layers in pairs],
            "selection: accuracy": joined["acc"].map(number),
            "held out: accuracy": joined["acc_held"].map(number),
            "held out: lost [95 %]": intervals(joined, *bounds),
            "p (Holm)": ["?" if pd.isna(p) else f"{p:.2g}" for p in joined["p_holm_held"]],
        }
    )
