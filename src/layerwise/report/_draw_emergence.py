"""What a report shows of emergence beside depths: agreement of methods, and of protocols.

The figures are drawn elsewhere; the tables shown are in the same order as the figures.
"""

from __future__ import annotations

from functools import partial

from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.rows import records
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import layer_ranges, spread
from layerwise.report.run import Run


def interactions(run: Run) -> list[FigureSpec]:
    """What groups of layers cost under each two protocols."""
    from layerwise.report.figures import interaction_profiles

    if run.protocol_interaction is None:
        return []
    table = run.protocol_interaction
    named = table.drop_duplicates("group")
    groups = "; ".join(f"{row['group']}: layers {layer_ranges(row['layers'])}"
                       for row in records(named))  # fmt: skip
    caption = (
        "Share of the above-chance accuracy that is lost when one layer is skipped, mean over the "
        f"layers of a group ({groups}), under two protocols on the same items (n = "
        f"{spread(table['n_items'])}; tasks with signal under both). Lines: bootstrap 95 % "
        "intervals over items. Filled: the profiles differ by more than a shift that is the same "
        "in all groups (interaction of group and protocol, sign flips by item, Holm over all "
        "panels, p < 0.05)."
    )
    alt = "Line charts of the share lost by group of layers, one line per protocol."
    return [FigureSpec("protocol_interaction", partial(interaction_profiles, table), caption, alt)]


def interaction_tables(run: Run) -> list[Table]:
    """The same in numbers."""
    if run.protocol_interaction is None:
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
        for row in records(run.protocol_interaction)
    ]  # fmt: skip
    return [Table(f"Loss by group of layers and protocol ({len(cells)})", columns, cells, True)]


def agreements(run: Run) -> list[FigureSpec]:
    """Differences of depth and correlations between methods."""
    from layerwise.report.figures import agreement_ranges

    if run.method_agreement is None:
        return []
    table = run.method_agreement
    caption = (
        "Every two methods that place a capability on the same prompts and items (n = "
        f"{spread(table['n_items'])}). Left: half-effect depth by the second method minus that by "
        "the first (0: the same depth; 1: the model's whole depth). Right: Spearman's correlation, "
        "over layers, of what the two give each layer. Lines: paired bootstrap 95 % intervals. "
        "Filled: different from 0 after Holm's correction (over all differences, and over all "
        "correlations)."
    )
    alt = "Points with intervals: differences of depth and rank correlations between methods."
    return [FigureSpec("method_agreement", partial(agreement_ranges, table), caption, alt)]


def agreement_tables(run: Run) -> list[Table]:
    """The same in numbers."""
    if run.method_agreement is None:
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
        for row in records(run.method_agreement)
    ]  # fmt: skip
    return [Table(f"Agreement of methods ({len(cells)})", columns, cells, True)]


def _depth(depth: float) -> str:
    return "–" if depth != depth else f"{depth:.2f}"
