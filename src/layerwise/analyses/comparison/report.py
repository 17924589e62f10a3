"""The typed result of a comparison and its page, from its tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.analyses.replication.columns import claim_name, effect_words
from layerwise.presentation.claim import Claim, drop_constant_columns, evidence
from layerwise.presentation.columns import (
    Column,
    as_text,
    estimate_column,
    number_column,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.naming import Stacks
from layerwise.presentation.over_run import n_tests
from layerwise.presentation.page import Report, pictures, render_template
from layerwise.presentation.rows import numbers, parts, records, rows
from layerwise.presentation.section import FigureSpec, Table, not_shown_note
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    in_order,
    join_words,
    number,
    protocol_phrase,
    spread,
)
from layerwise.storage.joined_folder import JoinedFolder, JoinedRuns

from .findings import difference_claims, headline, no_difference_claims
from .quantities import COMPARED, FAMILIES
from .runs import FOLDER, UNITS, ComparisonFacts

# Claims on the first screen.
MOST = 4
# Tasks that are named under the first picture.
_FEW = 8
# Rows of accuracies on the first screen.
_MOST_ACCURACIES = 6


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(JoinedRuns):
    """Differences between runs, with intervals and tests, as tables.

    Attributes:
        layers: ``comparison_layers``: what changing each layer of each run costs.
        estimates: ``comparison_estimates``: each run by itself.
        differences: ``comparison_differences``: every two runs, or every two groups.
        groups: ``comparison_groups``: the spread within groups; empty without groups.
        left_out: ``comparison_left_out.parquet``: what was not compared, and why.
        verdicts: ``comparison_verdicts.parquet``: the runs' verdicts on published claims.
        facts: what is needed to repeat it.
    """

    home: ClassVar[JoinedFolder[Any]] = FOLDER
    tables: ClassVar[tuple[str, ...]] = FOLDER.tables

    layers: pd.DataFrame
    estimates: pd.DataFrame
    differences: pd.DataFrame
    groups: pd.DataFrame
    left_out: pd.DataFrame
    verdicts: pd.DataFrame
    facts: ComparisonFacts

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        sure, rest = self.established_claims(), no_difference_claims(self.claimable())
        return Report((*sure, *rest), lambda: _page(self, sure, rest))

    def established_claims(self) -> list[Claim]:
        """The sentences that a test supports, the largest difference first."""
        sure = difference_claims(self.claimable(), self.facts.n_tests)
        if _lens_of_one_stack(self):  # what the lens cannot see must not lead
            sure.sort(key=lambda claim: "lens" in str(claim.source["where"]["method"]))
        return sure

    def claimable(self) -> pd.DataFrame:
        """The differences of which something may be claimed.

        A mean loss over the layers of a third counts layers: it is not compared between models
        that have other numbers of them.
        """
        depths = {run.group or run.name: run.facts.model.n_layers for run in self.facts.runs}
        first, second = (self.differences[end].map(depths.get) for end in ("first", "second"))
        alike = (self.differences["family"] != "share lost") | first.eq(second)
        return pd.DataFrame(self.differences.loc[alike])

    def __repr__(self) -> str:
        claimable = self.claimable()
        n_established = len(difference_claims(claimable))
        return (
            f"Comparison({', '.join(_run_names(self))}; "
            f"{n_established} of {count_noun(len(claimable), 'difference')} established)"
        )


def _run_names(comparison: Comparison) -> list[str]:
    """Names of the groups, or of the runs if there are none."""
    return comparison.facts.groups or [run.name for run in comparison.facts.runs]


def _page(
    comparison: Comparison, sure: Sequence[Claim], rest: Sequence[Claim]
) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name."""
    names, drawings = _run_names(comparison), list(_drawings(comparison))
    n_claimable = len(comparison.claimable())
    made, figures = pictures(drawings)
    tasks = [
        [task.name, task.capability, str(task.n_items), str(task.n_fewshot), task.hash[:12]]
        for task in comparison.facts.runs[0].facts.tasks
    ]

    def with_rows(claims: Sequence[Claim]) -> list[tuple[Claim, Table]]:
        file = "comparison_differences.parquet"
        return [(claim, evidence(claim, comparison.differences, file)) for claim in claims]

    text = render_template(
        "layerwise.analyses.comparison",
        "comparison.html.j2",
        names=names,
        headline=headline(comparison.claimable())
        or f"No difference is established between {join_words(names)}.",
        facts=comparison.facts,
        counts=(n_claimable, len(sure)),
        accuracies=[*_verdicts(comparison), *_accuracies(comparison)],
        unclaimed=_unclaimed_note(len(comparison.differences) - n_claimable),
        n_tests=n_tests(comparison.differences),
        about=[*_unit_notes(comparison), *_reach(comparison.differences)],
        lens=_lens_of_one_stack(comparison),
        established=with_rows(sure),
        most=MOST,
        not_established=with_rows(rest),
        pictures=[made[drawing] for drawing in drawings],
        basis=[
            _runs_table(comparison),
            Table("Tasks compared", ("task", "capability", "items", "few-shot", "hash"), tasks),
        ],
        tables=list(_numbers_tables(comparison)),
    )
    return text, figures


def _accuracies(comparison: Comparison) -> list[Table]:
    """The intact accuracy of every run or group; of many tasks where they differ most."""
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for row in records(rows(comparison.differences, family="accuracy")):
        of_task = shares.setdefault((row["tasks"], row["protocol"]), {})
        of_task |= {row[end]: float(row[f"estimate_{end}"]) for end in ("first", "second")}

    def gap(key: tuple[str, str]) -> float:
        return min(shares[key].values()) - max(shares[key].values())

    names, first = _run_names(comparison), sorted(shares, key=gap)[:_MOST_ACCURACIES]
    cells = [
        [*key, *(number(100 * shares[key][name]) if name in shares[key] else "–" for name in names)]
        for key in shares
        if key in first
    ]
    note = not_shown_note(len(shares), len(cells), "are under Numbers")
    title = "Accuracy of the intact models (%)"
    return [Table(title, ("task", "protocol", *names), cells, note=note)] if cells else []


def _verdicts(comparison: Comparison) -> list[Table]:
    """A line for each published claim that a run tested, with a verdict for each run."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(comparison.verdicts):
        at = told.setdefault((claim_name(row), str(row["sentence"])), {})
        number = f": {effect_words(row)}" if pd.notna(row["p"]) else ""
        at[str(row["run"])] = f"{row['verdict']}{number}"
    names = list(dict.fromkeys(map(str, comparison.verdicts["run"])))
    cells = [[*key, *(at.get(name, "–") for name in names)] for key, at in told.items()]
    note = "Each run's verdicts are corrected over its own claims; no test compares them."
    columns = ("claim", "says", *names)
    return [Table("Published claims", columns, cells, note=note)] if cells else []


def _unclaimed_note(n: int) -> list[str]:
    """Reason why differences of shares lost are in the tables and not among the claims."""
    if not n:
        return []
    return [
        f"{count_noun(n, 'difference')} of shares lost: the models have other numbers of "
        f"layers, and "
        "a share lost per layer depends on it."
    ]


def caution(comparison: Comparison) -> str:
    """Scope of the differences."""
    return " ".join([*_unit_notes(comparison), *_lens_of_one_stack(comparison)])


def _lens_of_one_stack(comparison: Comparison) -> list[str]:
    """A caution if a lens is compared between models of one stack and of two."""
    kinds = {run.facts.model.n_encoder_layers > 0 for run in comparison.facts.runs}
    if len(kinds) < 2 or "logit lens" not in set(comparison.differences["method"]):
        return []
    return [
        "The logit lens reads only the decoder of an encoder-decoder. By it no capability can lie "
        "in the encoder."
    ]


def _unit_notes(comparison: Comparison) -> list[str]:
    """Unit of the comparison, and what the tests hold for."""
    groups = comparison.facts.groups
    if not groups:
        return [
            "Each model is one training run: these are differences between these models.",
            "About architectures or ways of training one run says nothing. Train several seeds of "
            "each and compare them with --group.",
        ]
    counts = [sum(run.group == group for run in comparison.facts.runs) for group in groups]
    sizes = join_words(f"{n} of {group}" for n, group in zip(counts, groups, strict=True))
    return [
        f"The unit is the training run ({sizes}). Intervals and tests are over runs and items at "
        "once; with so few runs they are wide.",
        "What is established holds for models trained like these, on items like these.",
    ]


_OF = {"accuracy": " accuracy points", "depth": " % of the depth", "share lost": " % of the score"}


def _reach(differences: pd.DataFrame) -> list[str]:
    """Smallest difference that could be seen, by the width of most intervals."""
    bounded = differences.dropna(subset=["low", "high"])
    widths = {
        family: float(np.median(numbers(part, "high") - numbers(part, "low")))
        for (family,), part in parts(bounded, family=COMPARED)
    }
    reach = join_words(f"±{number(50 * width)}{_OF[family]}" for family, width in widths.items())
    if not reach:
        return []
    return [f"A typical 95 % interval is {reach}: smaller differences are likely missed."]


def _drawings(comparison: Comparison) -> Iterator[FigureSpec]:
    from .figures import Block, compared_depths, compared_roles, difference_ranges

    blocks = [
        Block(run.name, Stacks(run.facts.model.n_encoder_layers, run.facts.model.n_layers),
              run.group)
        for run in comparison.facts.runs
    ]  # fmt: skip
    tasks = comparison.facts.runs[0].facts.tasks
    names = in_order((task.capability for task in tasks), CAPABILITY_ORDER)
    named = (
        f"{name}: {join_words(t.name for t in tasks if t.capability == name)}" for name in names
    )
    listed = f" {capitalise('; '.join(named))}." if len(tasks) <= _FEW else ""
    for protocol in in_order(comparison.layers["protocol"], PROTOCOL_ORDER):
        caption = (
            f"What each layer is needed for {protocol_phrase(protocol)}: input left, "
            f"output right, a row a "
            "task. Colour: how much of its score, the accuracy above guessing, the model loses "
            "without the layer. Dots: significant within the row (exact McNemar test, Holm)."
            f"{listed}"
        )
        alt = (
            f"Maps of layers by tasks, one under the other for each run "
            f"{protocol_phrase(protocol)}."
        )
        draw = partial(compared_roles, comparison.layers, blocks, protocol)
        yield FigureSpec(f"roles_{protocol}", draw, caption, alt)
    if len(rows(comparison.estimates, family="depth")):
        caption = (
            "Where each capability emerges, by run, from the first layer (0) to the last (1), "
            "with 95 % intervals over items. Each run on all tasks with signal; the differences "
            "below are on the tasks of both."
        )
        alt = "Points with intervals on an axis of depth, one per capability and run."
        draw = partial(compared_depths, comparison.estimates, blocks)
        yield FigureSpec("depths", draw, caption, alt)
    for (family,), of_family in parts(comparison.differences, family=COMPARED):
        how = "intervals and tests over runs and items at once (Welch, plus the error over items)"
        if of_family["unit"].iloc[0] == "item":
            tests = "exact McNemar tests" if family == "accuracy" else "paired tests"
            how = f"paired intervals over items and {tests}"
        caption = (
            f"Differences of {family}, second minus first, on the same items (n = "
            f"{spread(of_family['n_items'])}); {how}. Filled: different from 0 after Holm's "
            "correction over all comparisons of this kind"
            f"{', by no less than is of interest' * (family == 'depth')}."
        )
        draw = partial(difference_ranges, comparison.differences, family)
        alt = f"Points with intervals: differences of {family}, by way of scoring and method."
        yield FigureSpec(f"differences_{family.replace(' ', '_')}", draw, caption, alt)


def _runs_table(comparison: Comparison) -> Table:
    """Table of the runs that were compared."""
    columns = ["group", "run", "model", "layers", "parameters", "hash", "made"]
    cells = []
    for run in comparison.facts.runs:
        model, first = run.facts.model, run.facts.model.n_encoder_layers
        layers = f"{first} encoder, {model.n_layers - first} decoder" if first else model.n_layers
        parameters = f"{model.n_parameters:,}".replace(",", "\u202f")
        made = run.facts.created.strftime("%Y-%m-%d %H:%M UTC")
        cells.append(
            [run.group or "", run.name, model.name, str(layers), parameters, model.hash[:12], made]
        )
    first = 0 if comparison.facts.groups else 1
    return Table("Runs", tuple(columns[first:]), [row[first:] for row in cells])


_WHAT = plain("capability", "protocol", "method", "measure", "axis")
_SPREAD = (
    *plain("group"), text_column("runs", "n_runs"), *plain("tasks"), *_WHAT,
    number_column("mean", "mean", 100), number_column("standard deviation over runs", "sd", 100),
    number_column("least", "least", 100), number_column("most", "most", 100),
)  # fmt: skip
_LEFT_OUT = plain("runs", "capability", "task", "protocol", "method", "reason")


def _table_as_text(title: str, name: str, table: pd.DataFrame, columns: Sequence[Column]) -> Table:
    """The first rows of a saved table as text; what is alike in all of them is told below."""
    where = f"rows are in {FOLDER.table_file(name)}"
    shown = as_text(f"{title} ({{n}})", columns, table, most=1000, where=where)
    names, texts, alike = drop_constant_columns(shown.columns, shown.cells)
    return replace(shown, columns=names, cells=texts, note=shown.note + alike)


def _numbers_tables(comparison: Comparison) -> Iterator[Table]:
    """Differences of each family, the surest first; spread, each run, and what is left out."""
    for (family,), differences in parts(comparison.differences, family=COMPARED):
        ranked = differences.sort_values("p_holm", kind="stable")
        by_run = bool((ranked["unit"] == "run").all())
        columns = (
            *plain("first", "second", "tasks"), *_WHAT,
            number_column("of first", "estimate_first", 100),
            number_column("of second", "estimate_second", 100),
            estimate_column(f"difference of {UNITS[family][0]}", "difference", "", 100),
            Column("runs", lambda row: f"{row['n_second']} against {row['n_first']}") if by_run
            else text_column("n", "n_items"),
            p_column("p", "p"),
            p_column("p (Holm, of this kind)", "p_holm"),
            p_column("p (Holm, of the page)", "p_run"),
            Column("difference is", lambda row: "established" if row["significant"]
                   else "not established"),
        )  # fmt: skip
        yield _table_as_text(f"Differences: {family}", "differences", ranked, columns)
    if len(comparison.groups):
        yield _table_as_text("Spread within groups", "groups", comparison.groups, _SPREAD)
    for (family,), estimates in parts(comparison.estimates, family=FAMILIES):
        estimate = estimate_column(UNITS[family][0], "estimate", "", 100)
        columns = (*plain("run", "tasks"), *_WHAT, text_column("n", "n_items"), estimate)
        yield _table_as_text(f"Each run by itself: {family}", "estimates", estimates, columns)
    if len(comparison.left_out):
        yield _table_as_text("Left out, and why", "left_out", comparison.left_out, _LEFT_OUT)
