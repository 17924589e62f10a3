"""The typed result of emergence, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.columns import (
    Column,
    drop_columns,
    estimate_column,
    in_short,
    plain,
    text_column,
)
from layerwise.presentation.rows import rows
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import layer_ranges
from layerwise.storage.base import Result, heading_line
from layerwise.storage.provenance import Facts


@dataclass(frozen=True, repr=False, eq=False)
class EmergenceResult(Result):
    """Depths at which capabilities emerge, by method, with tests of their order.

    Attributes:
        emergence: ``emergence``.
        order: ``order``.
        method_agreement: ``method_agreement``.
        protocol_interaction: ``protocol_interaction``.
        left_out: ``left_out.parquet``: what no claim is made about, and why.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = (
        "emergence", "order", "method_agreement", "protocol_interaction", "left_out",
    )  # fmt: skip
    joins_others: ClassVar[bool] = True
    title: ClassVar[str] = "Emergence: depth from 0 (first layer) to 1 (last)"
    if_empty: ClassVar[str] = "No capability can be placed; see left_out for the reasons."

    emergence: pd.DataFrame
    order: pd.DataFrame
    method_agreement: pd.DataFrame
    protocol_interaction: pd.DataFrame
    left_out: pd.DataFrame
    facts: Facts

    def _figure(self) -> Any:
        """Depths with their intervals, by capability, method and protocol."""
        from .figures import emergence_ranges

        return draw_table(self, emergence_ranges, rows(self.emergence, axis=COMPUTATION))

    def summary_rows(self) -> pd.DataFrame:
        """Depths and critical sets with their intervals."""
        axis = () if len(set(self.emergence["axis"])) > 1 else ("axis",)
        shown = drop_columns(DEPTHS, *axis, "in layers", "critical layers", "n", "tasks")
        return in_short(self, shown, self.emergence)

    def _heading_line(self) -> str:
        table = self.emergence
        tasks = sorted({task for names in table["tasks"] for task in names.split(",")})
        n_items = sum(task.n_items for task in self.facts.tasks if task.name in tasks)
        return heading_line(self.facts, n_items, sorted(table["protocol"].unique()), tasks)


def layer_ranges_or_dash(layers: Any) -> str:
    """Layers in ranges; a dash where they were not looked for."""
    return layer_ranges(layers) if isinstance(layers, list) else "–"


DEPTHS = (
    *plain("capability", "protocol", "method", "measure", "axis"),
    estimate_column("relative depth or share", "estimate", "", 1, 2),
    estimate_column("in layers", "layer", "layer_", 1, 1),
    Column("critical layers", lambda row: layer_ranges_or_dash(row["layers"])),
    text_column("n", "n_items"),
    *plain("tasks"),
)
