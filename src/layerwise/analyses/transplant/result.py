"""The typed result of a transplant, and what its tables say of each row in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.tables.saved_effects import set_name
from layerwise.presentation.columns import (
    Column,
    Row,
    estimate_column,
    in_short,
    number_column,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import layer_ranges, number
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts

from .exchange.names import BY_HEAD, OF_NO_LAYER, WEIGHTS
from .tables import effects_table, gaps_table, greedy_table, ranks_table


@dataclass(frozen=True, repr=False, eq=False)
class TransplantResult(Result):
    """Outcomes of two models, and of each with layers of the other.

    Attributes:
        transplant: ``transplant.parquet``.
        transplant_distances: ``transplant_distances.parquet``.
        facts: what is needed to repeat the run; the model is the base.
    """

    tables: ClassVar[tuple[str, ...]] = ("transplant", "transplant_distances")
    title: ClassVar[str] = "Transplant: which layers bring what one model can do to another"
    if_empty: ClassVar[str] = (
        "Nothing was exchanged: under no task and protocol is one of the two models established "
        "to be better than the other."
    )

    transplant: pd.DataFrame
    transplant_distances: pd.DataFrame
    facts: Facts

    @cache_tables
    def gaps(self) -> pd.DataFrame:
        """``transplant_gaps``: which of the two models is better, and by how much."""
        return gaps_table(self.transplant, self.facts.chance, self.facts.seed)

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``transplant_effects``: what every change moves of the gap."""
        return effects_table(self.transplant, self.gaps(), self.facts.chance, self.facts.seed)

    @cache_tables
    def ranks(self) -> pd.DataFrame:
        """``transplant_ranks``: do layers whose weights differ most move most?"""
        return ranks_table(self.transplant, self.transplant_distances, self.gaps(), self.facts.seed)

    @cache_tables
    def greedy(self) -> pd.DataFrame:
        """``transplant_greedy``: what layers chosen one by one move on other items."""
        return greedy_table(self.transplant, self.gaps(), self.facts.chance, self.facts.seed)

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``transplant_gaps``, ``transplant_effects``, ``transplant_ranks``, ``transplant_greedy``.

        The last only where layers were chosen one after the other.
        """
        greedy = {"transplant_greedy": self.greedy()} if len(self.greedy()) else {}
        return {
            "transplant_gaps": self.gaps(),
            "transplant_effects": self.effects(),
            "transplant_ranks": self.ranks(),
            **greedy,
        }

    def _figure(self) -> Any:
        """The share of the gap that each layer brings, and that its return destroys.

        Of single heads what each brings is drawn, as layers by heads.
        """
        from .figures import gap_share_by_head, gap_share_by_layer

        effects = self.effects()
        by_head = bool(effects["head"].notna().any())
        return draw_table(self, gap_share_by_head if by_head else gap_share_by_layer, effects)

    def summary_rows(self) -> pd.DataFrame:
        """Share of the gap that each change moves, where there is one."""
        return in_short(self, EFFECTS, self.effects())


def set_words(row: Row) -> str:
    """``3–5``, or of heads ``2: 0–3; 5: 1``, of one ``7.3``; nothing outside of the layers."""
    if row["site"] in OF_NO_LAYER:
        return ""
    if row["site"] not in BY_HEAD:
        return layer_ranges(row["layers"])
    if len(row["heads"]) == 1:
        return order_words(row)
    return set_name(row["layers"], [int(head) for head in row["heads"]])


def order_words(row: Row) -> str:
    """``3, 1, 4`` or ``7.3, 2.0``: what was chosen, one after the other."""
    layers = [name_layer(layer) for layer in row["layers"]]
    if row["site"] not in BY_HEAD:
        return ", ".join(layers)
    return ", ".join(f"{a}.{int(b)}" for a, b in zip(layers, row["heads"], strict=True))


_SETS = {
    "together": " (together)",
    "from_first": " (from the first on)",
    "from_last": " (from the last on)",
}


def _change_words(row: Row) -> str:
    """The layers of a change, and how they were chosen."""
    part = "" if row["site"] == "layer" else f" {row['site']}"
    step = "" if row["t"] == 1 else f", t = {number(row['t'], 2)}"
    step += "" if row["exchange"] == WEIGHTS else " (activations)"
    return f"{set_words(row)}{part}{_SETS.get(row['set'], '')}{step}".lstrip()


def _place(row: Row) -> str:
    """``7``, or of a head ``7.3``."""
    if pd.isna(row["layer"]):
        return "–"
    head = "" if pd.isna(row["head"]) else f".{int(row['head'])}"
    return f"{name_layer(row['layer'])}{head}"


EFFECTS = (
    *plain("task", "protocol"),
    Column("layers", _change_words),
    text_column("put into", "host"),
    *plain("direction"),
    text_column("n", "n_items"),
    number_column("accuracy (%)", "acc", 100),
    estimate_column("moved (points)", "moved", "moved_", 100),
    estimate_column("share of the gap (%)", "share", "share_", 100),
    estimate_column("moved (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    p_column("p (run)", "p_run"),
)
GREEDY = (
    *plain("task", "protocol"),
    text_column("put into", "host"),
    *plain("direction", "step"),
    Column("layers, as they were chosen", order_words),
    text_column("of", "n_candidates"),
    number_column("moved on what it was chosen by (points)", "moved_selection", 100),
    text_column("n held out", "n_items"),
    estimate_column("moved on held-out items (points)", "moved", "moved_", 100),
    estimate_column("share of the gap (%)", "share", "share_", 100),
    p_column("p (Holm, steps of the run)", "p_run"),
)
GAPS = (
    *plain("task", "protocol"),
    text_column("n", "n_items"),
    number_column("base (%)", "acc_base", 100),
    number_column("other (%)", "acc_other", 100),
    *plain("better"),
    estimate_column("lead (points)", "gap", "gap_", 100),
    estimate_column("lead (nats)", "nats", "nats_", 1, 2),
    p_column("p (Holm)", "p_holm"),
    yes_no_column("a gap to move", "found"),
)
DISTANCES = (
    text_column("part", "site"),
    Column("layer", _place),
    text_column("weight", "part"),
    text_column("parameters", "n_parameters"),
    number_column("distance", "distance", 1, 4),
)
RANKS = (
    *plain("task", "protocol"),
    text_column("put into", "host"),
    *plain("direction"),
    text_column("layers", "n_layers"),
    text_column("n", "n_items"),
    estimate_column("rank correlation of distance and points moved", "rho", "rho_", 1, 2),
    Column("p", lambda row: "–" if pd.isna(row["rho_p"]) else f"{row['rho_p']:.3g}"),
)
