"""Interaction of protocol and groups of layers in what a task loses (docs/emergence.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.errors import UserError
from layerwise.presentation.wording import in_order
from layerwise.stats.depth.layer_curves import Sampling
from layerwise.stats.effects import Cell, Chance, cell_scale, cells, layer_skips
from layerwise.stats.families.estimate import finite_or_none
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.items.clusters import Clusters, Counts
from layerwise.stats.share_tests.share_bounds import (
    Scale,
    ShareBounds,
    difference_wide_enough,
    one_answer_change,
    wide_enough,
)
from layerwise.stats.signals.signal import signals
from layerwise.tasks import PROTOCOLS
from layerwise.tasks.items import CAPABILITIES

Groups = Mapping[str, Sequence[int]]
THIRDS = ("early", "middle", "late")


class GroupCosts(NamedTuple):
    """One task under one protocol: what skipping a layer of each group costs on average."""

    cell: Cell  # the answers
    scale: Scale  # what the sample leaves open of a share, where all resamples say the same
    # Of each item what is above the floor, then what each group loses on average.
    values: Float[np.ndarray, "items columns"]
    # Of each item by group; their mean is the share lost of the sample, and their spread is that of
    # the share, denominator included.
    pseudo: Float[np.ndarray, "items groups"]

    def draws(self, counts: Counts) -> Float[np.ndarray, "draws groups"]:
        """The share of the above-floor accuracy lost by group, by how often clusters are drawn."""
        whole, less = np.split(self.cell.clusters.means_of_counts(self.values, counts), [1], axis=1)
        return stats.shares(whole, whole - less, 0.0)


def mean_draws(
    profiles: Sequence[GroupCosts], sampling: Sampling
) -> Float[np.ndarray, "draws groups"]:
    """Mean over tasks of the share lost by group, in the sample and in joint resamples."""
    cells_drawn = [profile.cell for profile in profiles]
    counts = sampling.counts([c.task for c in cells_drawn], [c.clusters for c in cells_drawn])
    drawn = (profile.draws(count) for profile, count in zip(profiles, counts, strict=True))
    return np.mean(list(drawn), axis=0)


def layer_groups(n_layers: int, groups: Groups | None = None) -> dict[str, list[int]]:
    """The groups asked for, checked; early, middle and late thirds if None."""
    if groups is None:
        parts = np.array_split(np.arange(n_layers), min(3, n_layers))
        names = THIRDS if len(parts) == 3 else (THIRDS[0], THIRDS[2])
        return {name: part.tolist() for name, part in zip(names, parts, strict=False)}
    named = {name: sorted(layers) for name, layers in groups.items()}
    listed = [layer for layers in named.values() for layer in layers]
    wrong = [layer for layer in listed if not 0 <= layer < n_layers]
    if wrong or len(set(listed)) < len(listed) or not all(named.values()) or len(named) < 2:
        raise UserError(
            f"Layer groups must be two or more, none of them empty, and hold each of the layers 0 "
            f"to {n_layers - 1} at most once; got {named}."
        )
    return named


def interaction_rows(
    records: pd.DataFrame, chance: Chance, groups: Groups, sampling: Sampling
) -> list[dict[str, Any]]:
    """Rows of ``protocol_interaction``; none where there is no signal under both."""
    if len(groups) < 2:
        return []
    every = list(cells(layer_skips(records)))
    signal = signals(every, chance)
    profiles = {
        (cell.capability, cell.task, cell.protocol): loss_profile(cell, level, groups)
        for cell in every
        if (level := chance(cell.task, cell.protocol)) < 1
        and cell.interventions["layer"].tolist() == list(range(sampling.n_layers))
        and signal[cell.task, cell.protocol]
    }
    tables = []
    for capability in in_order(sorted({key[0] for key in profiles}), tuple(CAPABILITIES)):
        own = {key[1:]: profile for key, profile in profiles.items() if key[0] == capability}
        tasks = sorted({task for task, _ in own})
        protocols = in_order(sorted({protocol for _, protocol in own}), PROTOCOLS)
        for pair in combinations(protocols, 2):
            # the tasks whose very same items were asked under both protocols
            sides = (tuple(own.get((task, protocol)) for protocol in pair) for task in tasks)
            both = [
                (a, b) for a, b in sides
                if a and b and a.cell.items == b.cell.items and len(a.cell.items) > 1
            ]  # fmt: skip
            if both:
                tables.append(_rows(capability, pair, both, groups, sampling))
    adjusted = correct_rows([rows[0] for rows in tables])
    return [row | {"p_holm": first["p_holm"]} for first, rows in zip(adjusted, tables, strict=True)
            for row in rows]  # fmt: skip


def loss_profile(cell: Cell, chance: float, groups: Groups) -> GroupCosts:
    """Cost of skipping a layer of each group, of one task with signal."""
    intact = cell.intact[:, None].astype(float)
    lost = np.column_stack(
        [(intact - cell.correct[:, list(layers)]).mean(axis=1) for layers in groups.values()]
    )
    above = intact - cell.floor(chance)[:, None]
    whole = above.mean(axis=0)
    share = stats.shares(whole, whole - lost.mean(axis=0), 0.0)
    # the influence of an item on a ratio of means, added to the ratio
    pseudo = share + (lost - share * above) / whole
    values = np.concatenate([above, lost], axis=1)
    return GroupCosts(cell, cell_scale(cell, chance), values, pseudo)


def _rows(
    capability: str,
    pair: tuple[str, str],
    both: list[tuple[GroupCosts, GroupCosts]],
    groups: Groups,
    sampling: Sampling,
) -> list[dict[str, Any]]:
    sides = [[profiles[i] for profiles in both] for i in (0, 1)]
    first, second = (mean_draws(side, sampling) for side in sides)
    # each item's part of the mean over tasks of the mean over items
    parts = [(a.pseudo - b.pseudo) / (len(a.pseudo) * len(both)) for a, b in both]
    together = Clusters.concatenate([a.cell.clusters for a, _ in both])
    named = {
        "capability": capability,
        "first": pair[0],
        "second": pair[1],
        "n_items": sum(len(a.pseudo) for a, _ in both),
        "n_tasks": len(both),
        "tasks": ",".join(a.cell.task for a, _ in both),
        "p": interaction_p(np.concatenate(parts), sampling.seed, together),
    }
    n_layers = np.array(list(map(len, groups.values())))
    columns: dict[str, Float[np.ndarray, " groups"]] = {}
    own = []
    for which, drawn, profiles in zip(("first", "second"), (first, second), sides, strict=True):
        scales = [profile.scale for profile in profiles]
        shares = np.stack([profile.pseudo.mean(axis=0) for profile in profiles])
        # percentile bounds of the mean share, joint ones where all resamples are the same
        low, high = wide_enough(stats.percentile_bounds(drawn[1:], 0.95), shares, scales)
        own.append(ShareBounds(low, high, one_answer_change(scales, n_layers)))
        name = f"share_{which}"
        columns |= {name: drawn[0], f"{name}_low": low, f"{name}_high": high}
    gap = first - second
    low, high = difference_wide_enough(gap[0], stats.percentile_bounds(gap[1:], 0.95), *own)
    columns |= {"difference": gap[0], "low": low, "high": high}
    return [
        named
        | {"group": name, "layers": list(layers)}
        | {column: finite_or_none(values[i]) for column, values in columns.items()}
        for i, (name, layers) in enumerate(groups.items())
    ]


def interaction_p(
    differences: Float[np.ndarray, "items groups"], seed: int, clusters: Clusters | None = None
) -> float:
    """p-value of "the mean difference is the same in all groups", by flips of clusters' signs."""
    # What is left beside the common shift has mean 0 under the null, whose two protocols are alike.
    contrasts = differences - differences.mean(axis=1, keepdims=True)
    contrasts[np.abs(contrasts) < 1e-12] = 0.0
    together = contrasts if clusters is None else clusters.sums(contrasts)
    return stats.joint_sign_flip_p(together, seed=stats.generator(seed, "interaction"))
