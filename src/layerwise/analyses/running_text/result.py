"""The typed result of reading text under changes, and its means over pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from layerwise.errors import count_noun
from layerwise.presentation.columns import LAYER, estimate_column, in_short, p_column, plain
from layerwise.presentation.section import draw_table
from layerwise.stats.contrasts import Contrast, mean_contrast
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.items.clusters import Clusters
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts

SKIP, SWAP = CHANGES = ("skip", "swap")
LEVEL = 0.05
# Changes in the short view.
_SHOWN = 5


class TextEffects(NamedTuple):
    """Losses of each piece of text by changes of one kind.

    Attributes:
        layers: the layer of each change, or the first of the two.
        bits: bits lost per byte.
        agree: share of positions with the same most likely next token; nan of a piece without any.
        clusters: pieces of one text together.
    """

    layers: Int[np.ndarray, " changes"]
    bits: Float[np.ndarray, "pieces changes"]
    agree: Float[np.ndarray, "pieces changes"]
    clusters: Clusters


def text_effects(table: pd.DataFrame, kind: str) -> TextEffects:
    """The effects of one kind of change, of the table ``text_loss``."""
    intact = table.loc[table["kind"] == "intact"].sort_values("piece").set_index("piece")
    changed = table.loc[table["kind"] == kind]
    nats, agree = (
        changed.pivot(index="piece", columns="layer", values=name).astype(float)
        for name in ("nats", "agree")
    )
    before, n_bytes = (intact[name].to_numpy(dtype=float)[:, None] for name in ("nats", "n_bytes"))
    bits = (nats.to_numpy() - before) / math.log(2) / n_bytes if len(nats) else nats.to_numpy()
    clusters = Clusters.from_labels(intact["cluster"].tolist())
    return TextEffects(nats.columns.to_numpy(dtype=int), bits, agree.to_numpy(), clusters)


def mean_where_finite(values: Float[np.ndarray, " pieces"], clusters: Clusters) -> Contrast:
    """Mean over the pieces that have a value."""
    known = ~np.isnan(values)
    return mean_contrast(values[known], clusters.select_items(known))


def effects_table(table: pd.DataFrame) -> pd.DataFrame:
    """``text_effects``: means over pieces, with intervals and paired tests over texts."""
    rows: list[dict[str, Any]] = []
    for kind in CHANGES:
        layers, bits, agree, clusters = text_effects(table, kind)
        for column, layer in enumerate(layers):
            lost = mean_contrast(bits[:, column], clusters)
            low, high = lost.bounds()
            p = lost.p_either_side()
            row = {"kind": kind, "layer": int(layer), "n_pieces": len(bits), "bits": lost.estimate}
            rows.append(row | {"n_clusters": clusters.n, "low": low, "high": high, "p": p})
            if not np.isnan(agree[:, column]).all():
                same = mean_where_finite(agree[:, column], clusters)
                ends = (min(max(end, 0.0), 1.0) for end in same.bounds())
                names = ("agree", "agree_low", "agree_high")
                rows[-1] |= dict(zip(names, (same.estimate, *ends), strict=True))
    corrected = correct_rows(rows)
    for row in corrected:
        row["significant"] = row["p_holm"] < LEVEL
    return frame("text_effects", corrected)


@dataclass(frozen=True, repr=False, eq=False)
class TextLossResult(Result):
    """Likelihood of running text without each layer, and with neighbouring layers swapped.

    Attributes:
        text_loss: ``text_loss.parquet``: a row for each piece and change.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("text_loss",)
    derived_by: ClassVar[dict[str, str]] = {"text_effects": "effects"}
    title: ClassVar[str] = "Running text: changes of layers that cost most"
    if_empty: ClassVar[str] = "No text was read."

    text_loss: pd.DataFrame
    facts: Facts

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``text_effects``: bits lost per byte and next tokens that stay, means over pieces."""
        return effects_table(self.text_loss)

    def _figure(self) -> Any:
        """The cost of each change, and the share of next tokens that stay."""
        from .figures import text_curves

        return draw_table(self, text_curves, self.effects())

    def summary_rows(self) -> pd.DataFrame:
        """The changes of each kind that cost most."""
        ranked = self.effects().sort_values("bits", ascending=False, kind="stable")
        top = ranked.groupby("kind", sort=True).head(_SHOWN).sort_values("kind", kind="stable")
        return in_short(self, COLUMNS, top)

    def notes(self) -> list[str]:
        """Layers that could not be swapped."""
        left_out: Any = self.facts.settings.get("not_swapped", [])
        if not left_out:
            return []
        named = ", ".join(f"{layer} and {layer + 1}" for layer in left_out)
        return [f"Layers that differ in more than their weights were not swapped: {named}."]

    def _heading_line(self) -> str:
        n = count_noun(len(set(self.text_loss["piece"])), "piece")
        return f"{self.facts.model.name}; {n} of {self.facts.settings.get('text', 'text')}"


COLUMNS = (
    *plain("kind"),
    LAYER,
    estimate_column("bits lost per byte", "bits", "", 1, 3),
    p_column("p (Holm)", "p_holm"),
    estimate_column("same next token (%)", "agree", "agree_", 100),
)
