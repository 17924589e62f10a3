"""Where capabilities emerge and whether methods agree: parts of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

import pandas as pd

from layerwise.analyses.contract import Analysis
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.claim import ORDER
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section, Table, bounds
from layerwise.presentation.wording import layer_ranges, spread, spread_of
from layerwise.storage.run_tables import RunTables

from .findings import findings
from .findings_methods import AGREEMENT
from .result import DEPTHS, EmergenceResult, listed

_EMERGENCE_WORDS = (
    "Half-effect depth: where half of the effect is reached. Centre of mass: the mean depth, "
    "weighted by importance; it is described and not tested. Critical set: layers with a "
    "significant loss."
)
_INTERACTION_WORDS = (
    "Do the ways of scoring differ more in some part of the model than in another? There is one "
    "test for each capability and two protocols. It asks whether losses differ by group of "
    "layers, beyond a shift that all groups share."
)
_AGREEMENT_WORDS = (
    "Methods ask different things. Ablation asks what is needed, a lens what can be read, "
    "patching what is enough, attribution what is written. This shows how far apart their answers "
    "are, on the same items."
)


def ranges(run: RunTables) -> list[FigureSpec]:
    """The depths at which capabilities emerge."""
    from .figures import DEPTHS, emergence_ranges

    emergence = run.table("emergence")
    if emergence is None:
        return []
    figures = []
    for name, axes, where in (
        ("emergence", (COMPUTATION,), ""),
        ("emergence_within_stacks", (ENCODER, DECODER), " within each stack alone"),
    ):
        of_axis = rows(emergence, axis=axes)
        if of_axis.empty or not len(rows(of_axis, measure=DEPTHS)):
            continue
        caption = (
            f"Depth at which each capability emerges{where}, by method and protocol. It runs "
            f"from 0 (first layer{' of the stack' * bool(where)}) to 1 (last). Lines: 95 % "
            f"intervals over items (n = {spread_of(of_axis['n_items'], 'item')}). Grey ticks: "
            "layers of the critical set."
        )
        alt = f"Points with intervals on an axis of depth{where}, by capability and method."
        figures.append(FigureSpec(name, partial(emergence_ranges, of_axis), caption, alt))
    return figures


def interactions(run: RunTables) -> list[FigureSpec]:
    """What groups of layers cost under each two protocols."""
    from .figures import interaction_profiles

    protocol_interaction = run.table("protocol_interaction")
    if protocol_interaction is None:
        return []
    table = protocol_interaction
    named = table.drop_duplicates("group")
    groups = "; ".join(f"{row['group']}: layers {layer_ranges(row['layers'])}"
                       for row in records(named))  # fmt: skip
    caption = (
        "Share of the above-floor accuracy that is lost when one layer is skipped, mean over a "
        f"group of layers. Groups: {groups}. Two protocols are compared on the same items (n = "
        f"{spread(table['n_items'])}), in tasks with signal under both. Lines: bootstrap 95 % "
        "intervals over items. Filled: the profiles differ by more than the same shift in all "
        "groups (interaction, sign flips by item, Holm over all panels, p < 0.05)."
    )
    alt = "Line charts of the share lost by group of layers, one line per protocol."
    return [FigureSpec("protocol_interaction", partial(interaction_profiles, table), caption, alt)]


def agreements(run: RunTables) -> list[FigureSpec]:
    """Differences of depth and correlations between methods."""
    from .figures import agreement_ranges

    method_agreement = run.table("method_agreement")
    if method_agreement is None:
        return []
    table = method_agreement
    caption = (
        "Every two methods that place a capability on the same prompts and items (n = "
        f"{spread(table['n_items'])}). First: half-effect depth by the second method minus that by "
        "the first (0: the same depth; 1: the model's whole depth). Then: Spearman's correlation, "
        "over layers, of what the two give each layer. Lines: paired 95 % intervals over items. "
        "Filled: different from 0 after Holm's correction (over all differences, and over all "
        "correlations), depths by no less than is of interest."
    )
    alt = "Points with intervals: differences of depth and rank correlations between methods."
    return [FigureSpec("method_agreement", partial(agreement_ranges, table), caption, alt)]


def sections(run: RunTables) -> list[Section]:
    """Protocols and groups of layers, depths, and agreement of methods."""
    return [
        Section("interaction", "Protocols and groups of layers", 25, _INTERACTION_WORDS,
                tuple(interactions(run)), tuple(interaction_tables(run))),
        Section("emergence", "Where capabilities emerge", 60, _EMERGENCE_WORDS,
                tuple(ranges(run)), tuple(emergence_tables(run)), kinds=(ORDER,)),
        Section("agreement", "Agreement of methods", 65, _AGREEMENT_WORDS,
                tuple(agreements(run)), tuple(agreement_tables(run)), kinds=(AGREEMENT,)),
    ]  # fmt: skip


def emergence_tables(run: RunTables) -> list[Table]:
    """Depths, tests of order, and what was left out."""
    emergence = run.table("emergence")
    shown = [] if emergence is None else cells(DEPTHS, emergence)
    title = f"Depths and critical sets ({len(shown)})"
    tables = [Table(title, heads(DEPTHS), shown, True)]
    return [*(tables if shown else []), *_order(run), *_left_out(run)]


def _order(run: RunTables) -> list[Table]:
    order = run.table("order")
    if order is None:
        return []
    columns = (
        "first", "second", "protocol", "method", "measure", "depth of second minus first",
        "shared layers, left out", "p (Holm)",
    )  # fmt: skip
    ranked = order.iloc[numbers(order, "p_holm").argsort(kind="stable")]
    cells = [
        [
            row["first"], row["second"], row["protocol"], row["method"], row["measure"],
            bounds(row, "difference", "low", "high", 1, 2), listed(row.get("shared")),
            f"{row['p_holm']:.3g}",
        ]
        for row in records(ranked)
    ]  # fmt: skip
    return [Table(f"Tests of order ({len(cells)})", columns, cells, True)]


def _left_out(run: RunTables) -> list[Table]:
    left_out = run.table("left_out")
    if left_out is None:
        return []
    names = ("capability", "task", "protocol", "method", "axis", "reason")
    cells = [
        [str(row[name]) if not pd.isna(row[name]) else "–" for name in names]
        for row in records(left_out)
    ]
    return [Table("Left out of the depths, and why", names, cells)]


def interaction_tables(run: RunTables) -> list[Table]:
    """The same in numbers."""
    protocol_interaction = run.table("protocol_interaction")
    if protocol_interaction is None:
        return []
    columns = (
        "capability", "protocols", "layers", "n", "share lost, first (%)", "second (%)",
        "difference (points)", "p of interaction (Holm)",
    )  # fmt: skip
    cells = [
        [
            row["capability"], f"{row['first']}, {row['second']}",
            f"{row['group']} ({layer_ranges(row['layers'])})", str(row["n_items"]),
            *(bounds(row, name, f"{name}_low", f"{name}_high", 100)
              for name in ("share_first", "share_second")),
            bounds(row, "difference", "low", "high", 100), f"{row['p_holm']:.3g}",
        ]
        for row in records(protocol_interaction)
    ]  # fmt: skip
    return [Table(f"Loss by group of layers and protocol ({len(cells)})", columns, cells, True)]


def agreement_tables(run: RunTables) -> list[Table]:
    """The same in numbers."""
    method_agreement = run.table("method_agreement")
    if method_agreement is None:
        return []
    columns = (
        "capability", "protocol", "first", "second", "measure", "n", "depth by first",
        "by second", "difference or correlation", "p (Holm)",
    )  # fmt: skip
    cells = [
        [
            *(row[name] for name in ("capability", "protocol", "first", "second", "measure")),
            str(row["n_items"]), *(_depth(row[f"{name}_depth"]) for name in ("first", "second")),
            bounds(row, "estimate", "low", "high", 1, 2), f"{row['p_holm']:.3g}",
        ]
        for row in records(method_agreement)
    ]  # fmt: skip
    return [Table(f"Agreement of methods ({len(cells)})", columns, cells, True)]


def _depth(depth: float) -> str:
    return "–" if depth != depth else f"{depth:.2f}"


ANALYSIS = Analysis("emergence", EmergenceResult, sections, findings)
