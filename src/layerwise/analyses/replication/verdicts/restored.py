"""Answers that restored states bring back, as contrasts over pairs of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.contrasts import Contrast, ratio_contrast
from layerwise.stats.items.clusters import Clusters, clusters_from_table

from .claim import NoTest, Verdict
from .evidence import Evidence

Gains = Float[np.ndarray, "pairs layers"]


@dataclass(frozen=True)
class Restored:
    """Logit differences that restored outputs of sublayers bring back, in pairs of prompts.

    Attributes:
        gains: nats that come back, by site and position.
        whole: nats between the corrupted and the clean run.
        clusters: pairs that ask for the same.
    """

    gains: dict[tuple[str, str], Gains]
    whole: Float[np.ndarray, " pairs"]
    clusters: Clusters

    @classmethod
    def from_evidence(
        cls, evidence: Evidence, wanted: Sequence[tuple[str, str]]
    ) -> Restored | NoTest:
        """Pairs that have all wanted sites and positions, or why there are too few."""
        table = evidence.tables.get("patching", pd.DataFrame())
        if not len(table):
            why = "The intact model does not prefer the right answer in both prompts of more pairs "
            why += "than by chance."
            return NoTest("", Verdict.NO_SIGNAL, why)
        whole = (table["clean_diff"] - table["corrupted_diff"]).astype(float)
        rows = table.assign(
            gain=table["patched_diff"] - table["corrupted_diff"], whole=whole,
            item=table["task"] + "\0" + table["item"],
        )  # fmt: skip
        wide = rows.pivot_table(
            index="item", columns=["site", "pos_label", "layer"], values="gain", sort=True
        )
        missing = [key for key in wanted if key not in {c[:2] for c in wide.columns}]
        wide = wide.dropna()
        if missing or len(wide) < 2:
            why = "Too few pairs have a token between what differs and the last one."
            return NoTest("", Verdict.NOT_ASKED, why)
        ways = rows.groupby("item")["whole"].first().reindex(wide.index)
        gains = {place: np.asarray(wide[place[0]][place[1]], dtype=float) for place in wanted}
        clusters = clusters_from_table(rows, wide.index)
        return cls(gains, ways.to_numpy(dtype=float), clusters)

    def share(self, where: tuple[str, str], weights: Float[np.ndarray, " layers"]) -> Contrast:
        """Weighted sum over layers of the share of the way that comes back."""
        return ratio_contrast(self.gains[where] @ weights, self.whole, self.clusters)

    def centre(self, where: tuple[str, str], layers: Sequence[int]) -> Contrast | None:
        """Mean layer of what comes back in some layers, by how much; None if nothing does."""
        gains = self.gains[where][:, list(layers)]
        if gains.sum() <= 0:
            return None
        numbers = np.array(layers, dtype=float)
        return ratio_contrast(gains @ numbers, gains.sum(axis=1), self.clusters)
