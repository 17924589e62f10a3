"""The typed result of head scores, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.ground.layer_names import layer_name
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.notebook import intervals
from layerwise.storage.provenance import Facts

from .tables import SCORES, summary_table


@dataclass(frozen=True, repr=False, eq=False)
class HeadsResult(Result):
    """Which heads attend as induction heads do, on random tokens that are repeated.

    Attributes:
        heads: ``heads.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("heads",)
    title: ClassVar[str] = "Heads on repeated random tokens: highest prefix matching"
    if_empty: ClassVar[str] = "No head was scored."

    heads: pd.DataFrame
    facts: Facts

    @property
    def threshold(self) -> float:
        """Above this, an induction head's prefix-matching score lies with its whole interval."""
        return float(self.facts.settings["threshold"])  # type: ignore[arg-type]

    @computed_once
    def summary(self) -> pd.DataFrame:
        """``heads_summary.parquet``: mean scores over sequences, with intervals."""
        return summary_table(self.heads, self.threshold, self.facts.seed)

    def induction_heads(self) -> list[tuple[int, int]]:
        """The layer and head of every induction head."""
        found = self.summary()
        chosen = found.loc[found["induction_head"]]
        return list(zip(map(int, chosen["layer"]), map(int, chosen["head"]), strict=True))

    def derived(self) -> dict[str, pd.DataFrame]:
        """``heads_summary``."""
        return {"heads_summary": self.summary()}

    def plot(self) -> Any:
        """Attention scores, layers by heads."""
        from .figures.heads import head_score_maps

        return drawn(self, head_score_maps, self.summary())

    def summary_rows(self) -> pd.DataFrame:
        """The heads with the highest prefix-matching scores."""
        return head_rows(self.summary(), self.facts.model.n_encoder_layers)

    def _heading(self) -> str:
        count, length = (self.facts.settings[name] for name in ("sequences", "length"))
        return f"{self.facts.model.name}; {count} sequences of {length} random tokens, repeated"


def head_rows(summary: pd.DataFrame, n_encoder: int, n_top: int = 15) -> pd.DataFrame:
    """The heads with the highest prefix-matching scores."""
    top = summary.sort_values("prefix_matching", ascending=False, kind="stable").head(n_top)
    shown = top.reindex(columns=["site", "layer", "head"] if n_encoder else ["layer", "head"])
    shown["layer"] = [layer_name(int(layer), n_encoder) for layer in top["layer"]]
    for name in (name for name in SCORES if np.isfinite(top[name].to_numpy(dtype=float)).any()):
        bounds = (name, f"{name}_low", f"{name}_high")
        shown[name.replace("_", " ")] = np.where(top[name].isna(), "–", intervals(top, *bounds))
    return shown.assign(**{"induction head": np.where(top["induction_head"], "yes", "no")})
