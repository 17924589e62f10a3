"""The gap between two models on the same items, by task and protocol: is there one to be moved?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise import stats
from layerwise.stats.cells import Cell, cells_by_host, intact_nats
from layerwise.stats.effects import ALPHA, Chance
from layerwise.stats.families.estimate import known, mean_columns, paired_bounds, with_holm
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.stats.signals.signal import have_signal, signal_p_values
from layerwise.storage.parquet import frame

from .names import BASE, HOSTS, OTHER

_DESCRIBED = ("set", "site", "layer", "layers", "t", "head", "heads", "exchange")


class Pair(NamedTuple):
    """One task under one protocol, asked of both models.

    Attributes:
        cells: by host, its records as matrices; rows are the same items.
        nats: by host, the intact model's gold log-probabilities; nan where there are none.
        described: by intervention, its ``set``, ``site``, ``layer``, ``layers``, ``t``, ``head``,
            ``heads`` and ``exchange``.
    """

    cells: dict[str, Cell]
    nats: dict[str, Float[np.ndarray, " items"]]
    described: pd.DataFrame

    @property
    def base(self) -> Cell:
        """The base's."""
        return self.cells[BASE]

    @property
    def better(self) -> str:
        """The model that is right more often, ``other`` if neither is."""
        return BASE if self.base.intact.sum() > self.cells[OTHER].intact.sum() else OTHER

    @property
    def worse(self) -> str:
        """The model that is not the better one."""
        return OTHER if self.better == BASE else BASE

    @property
    def clusters(self) -> Clusters:
        """Which items ask for the same thing."""
        return self.base.clusters

    def answers(self, host: str) -> Bool[np.ndarray, " items"]:
        """Whether an intact model was right."""
        return self.cells[host].intact


def pairs_of(transplant: pd.DataFrame) -> Iterator[Pair]:
    """Both models' records by task and protocol, in alphabetical order."""
    transplant = transplant.loc[transplant["split"].isna()]
    for cells in cells_by_host(transplant, HOSTS, "both models; run the transplant"):
        base = cells[BASE]
        of = transplant.loc[
            (transplant["task"] == base.task) & (transplant["protocol"] == base.protocol)
        ]
        once = of.loc[of["set"].notna()].drop_duplicates("intervention")
        described = once.set_index("intervention")[list(_DESCRIBED)]
        yield Pair(cells, intact_nats(of, base), described)


def gaps_table(transplant: pd.DataFrame, chance: Chance, seed: int) -> pd.DataFrame:
    """``transplant_gaps.parquet``: is one of the two models better than the other, and which?

    A gap is found where the better model is right on significantly more of the same items
    (McNemar's exact test, by clusters; Holm over all tasks and protocols) and has signal itself.
    """
    pairs = list(pairs_of(transplant))
    if not pairs:
        return frame("transplant_gaps", [])
    asked = [pair.cells[host] for pair in pairs for host in HOSTS]
    signal = have_signal(signal_p_values(asked, chance)).reshape(-1, 2)
    rows = with_holm([_gap(pair, seed) for pair in pairs])
    for row, pair, of_hosts in zip(rows, pairs, signal, strict=True):
        has: dict[str, bool] = dict(zip(HOSTS, of_hosts.tolist(), strict=True))
        row |= {"signal_base": has[BASE], "signal_other": has[OTHER]}
        row["found"] = row["p_holm"] < ALPHA and has[pair.better]
        row["chance"] = chance(row["task"], row["protocol"])
    return frame("transplant_gaps", rows)


def _gap(pair: Pair, seed: int) -> dict[str, Any]:
    better, worse = pair.answers(pair.better), pair.answers(pair.worse)
    net = better.astype(int) - worse
    low, high = paired_bounds(net, pair.clusters)
    apart = (pair.nats[pair.better] - pair.nats[pair.worse])[:, None]
    random = stats.generator(seed, pair.base.task)
    nats = mean_columns("nats", "nats_", apart, pair.clusters, random)
    return {
        "task": pair.base.task,
        "capability": pair.base.capability,
        "protocol": pair.base.protocol,
        "better": pair.better,
        "n_items": len(net),
        "n_clusters": pair.clusters.n,
        "acc_base": float(pair.answers(BASE).mean()),
        "acc_other": float(pair.answers(OTHER).mean()),
        "gap": float(net.mean()),
        "gap_low": low,
        "gap_high": high,
        "n_better": int((net > 0).sum()),
        "n_worse": int((net < 0).sum()),
        "p": float(paired_p_values(net[:, None], pair.clusters)[0]),
        **{name: known(values[0]) for name, values in nats.items()},
    }
