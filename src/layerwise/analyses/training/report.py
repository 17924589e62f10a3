"""The typed result of a series, and its page: claims with their rows, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pandas as pd

from layerwise.errors import UserError
from layerwise.presentation.claim import ESTABLISHED, Claim, Estimate, evidence, source, weight
from layerwise.presentation.columns import (
    Column,
    Row,
    as_text,
    estimate_column,
    number_column,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.page import Report, render_pictures, render_template
from layerwise.presentation.rows import claim_scope, records, rows
from layerwise.presentation.section import FigureSpec, Table
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    few_layers,
    in_order,
    layer_ranges,
    number,
    p_value,
    protocol_phrase,
    spread,
)
from layerwise.storage.joined_folder import JoinedFolder, JoinedRuns

from .tables import FOLDER, SeriesFacts, n_layer_tests

_MOST = 1000
# Claims on the first screen.
_FIRST = 6
ONSET, FIRST_LAYERS, MOVES = "onset", "first layers", "moves"


@dataclass(frozen=True, eq=False, repr=False)
class TrainingSeries(JoinedRuns):
    """Onsets of capabilities in training, their layers, and whether their place moves.

    Attributes:
        accuracy: ``training_accuracy``: the intact model at each step, with its controls.
        layers: ``training_layers``: what each layer costs at each step.
        depths: ``training_depths``: depths of capabilities at each step.
        onsets: ``training_onsets``: when each task is there to stay, and by which layers.
        moves: ``training_moves``: whether what is needed comes to lie deeper.
        facts: what is needed to repeat it.
    """

    home: ClassVar[JoinedFolder[Any]] = FOLDER
    tables: ClassVar[tuple[str, ...]] = FOLDER.tables

    accuracy: pd.DataFrame
    layers: pd.DataFrame
    depths: pd.DataFrame
    onsets: pd.DataFrame
    moves: pd.DataFrame
    facts: SeriesFacts = field(repr=False)

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        claims = self.findings()
        return Report(tuple(claims), lambda: _page(self, claims))

    def findings(self) -> list[Claim]:
        """The sentences that the tables earn, the most important first."""
        n_tests = n_layer_tests(self.accuracy, self.layers)
        with model_layer_names(self.facts.runs[0].facts.model):
            claims = [
                *onset_findings(self.onsets, self.facts.steps, self.facts.smallest_gain),
                *first_layer_findings(self.onsets, n_tests),
                *move_findings(self.moves),
            ]
        return sorted(claims, key=lambda claim: -claim.importance)

    def plot(self, protocol: str | None = None) -> Any:
        """Accuracy over steps with onsets, above what each layer costs at each step.

        Args:
            protocol: which; the first of the series if None.

        Returns:
            A matplotlib figure.
        """
        protocols = in_order(self.accuracy["protocol"], PROTOCOL_ORDER)
        chosen = protocols[0] if protocol is None else protocol
        if chosen not in protocols:
            raise UserError(
                f"The series has no protocol {chosen!r}: expected one of {', '.join(protocols)}."
            )
        with model_layer_names(self.facts.runs[0].facts.model):
            return _course(self, chosen)()

    def __repr__(self) -> str:
        n, steps = sum(self.onsets["appears"]), self.facts.steps
        rows = count_noun(len(self.onsets), "task and way of scoring", "tasks and ways of scoring")
        return (
            f"TrainingSeries({count_noun(len(steps), 'checkpoint')}, steps {steps[0]} to "
            f"{steps[-1]}; {n} of {rows} there to stay)"
        )


def _page(series: TrainingSeries, claims: Sequence[Claim]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name."""
    model = series.facts.runs[0].facts.model
    drawings = _drawings(series)
    made, figures = render_pictures([(drawing.name, drawing, model) for drawing in drawings])
    not_there = [
        (
            f"{row['task']} {protocol_phrase(row['protocol'])} ({p_value(row['p_corrected'])} "
            f"at the last step)"
        )
        for row in records(rows(series.onsets, appears=False))
    ]

    def rows_of(claim: Claim) -> Table:
        name = claim.source["table"]
        table = getattr(series, name.removeprefix("training_"))
        return evidence(claim, table, f"{name}.parquet")

    text = render_template(
        "layerwise.analyses.training",
        "training.html.j2",
        name=model.name,
        facts=series.facts,
        gain=number(100 * series.facts.smallest_gain),
        findings=[(claim, rows_of(claim)) for claim in claims],
        most=_FIRST,
        not_there=not_there,
        pictures=[made[drawing] for drawing in drawings],
        tables=_tables(series),
    )
    return text, figures


def _course(series: TrainingSeries, protocol: str) -> partial[Any]:
    from .figures import training_course

    n_layers = series.facts.runs[0].facts.model.n_layers
    return partial(
        training_course, series.accuracy, series.layers, series.onsets, n_layers, protocol
    )


def _drawings(series: TrainingSeries) -> list[FigureSpec]:
    figures = []
    for protocol in in_order(series.accuracy["protocol"], PROTOCOL_ORDER):
        items = spread(rows(series.accuracy, protocol=protocol)["n_items"])
        caption = (
            f"What is learned at which step {protocol_phrase(protocol)}: above, accuracy "
            f"of the intact model "
            f"at each checkpoint with exact 95 % intervals (n = {items}), dashed when asked other "
            "items' questions; upright line: the onset, on grey its interval (all of the series "
            "hold together in 95 %). Below, the share of the above-floor accuracy that is lost "
            "when a layer is skipped; dots: significant losses (exact McNemar tests, Holm over the "
            "series); "
            "hatched: no signal (Holm over the series)."
        )
        alt = (
            f"Accuracy over checkpoints, and maps of layers by checkpoints, "
            f"{protocol_phrase(protocol)}."
        )
        figures.append(FigureSpec(f"training_{protocol}", _course(series, protocol), caption, alt))
    return figures


def _tables(series: TrainingSeries) -> list[Table]:
    checkpoints = [
        [str(step), run.facts.model.name, run.facts.model.hash[:12]]
        for step, run in zip(series.facts.steps, series.facts.runs, strict=True)
    ]
    with model_layer_names(series.facts.runs[0].facts.model):
        tables = [
            as_text(f"{title} ({{n}})", columns, getattr(series, name), most=_MOST,
                    where=f"rows are in {FOLDER.table_file(name)}", collapsed=name != "onsets")
            for title, name, columns in (
                ("Onsets", "onsets", ONSETS),
                ("Does its place move?", "moves", MOVES_COLUMNS),
                ("Accuracy by step", "accuracy", ACCURACY),
            )
        ]  # fmt: skip
    title = f"Checkpoints ({len(checkpoints)})"
    return [*tables, Table(title, ("step", "model", "hash"), checkpoints, collapsed=True)]


def _needed_layers_column(name: str, step: str) -> Column:
    """The layers that are needed first or last, and at which step."""

    def text(row: Row) -> str:
        known = isinstance(row[step], int)
        return f"{layer_ranges(row[f'layers_{name}'])} (step {row[step]})" if known else "–"

    return Column(f"{name} needs layers", text)


ONSETS = (
    *plain("task", "capability", "protocol"),
    text_column("n", "n_items"),
    Column("there at the end", lambda row: "yes" if row["appears"] else "not shown"),
    p_column("p (corrected)", "p_corrected"),
    Column(
        "onset [interval]",
        lambda row: f"{row['onset']} [{row['low']}, {row['high']}]" if row["appears"] else "–",
    ),
    _needed_layers_column("first", "layers_step"),
    _needed_layers_column("last", "layers_last_step"),
)
MOVES_COLUMNS = (
    *plain("task", "capability", "protocol"),
    text_column("n", "n_items"),
    Column(
        "steps with signal",
        lambda row: f"{row['first_step']} to {row['last_step']} ({row['n_steps']})",
    ),
    number_column("layer, earlier half", "layer_early", digits=2),
    number_column("layer, later half", "layer_late", digits=2),
    estimate_column("deeper by", "change", "", 1, 2),
    p_column("p", "p"),
    p_column("p (Holm)", "p_holm"),
    Column("move is", lambda row: "established" if row["significant"] else "open"),
)
ACCURACY = (
    *plain("step", "task", "protocol"),
    text_column("n", "n_items"),
    estimate_column("accuracy (%)", "accuracy", "", 100),
    number_column("blind (%)", "blind", 100),
    number_column("no layers (%)", "no_layers", 100),
    p_column("p (Holm, series)", "p_series"),
    yes_no_column("signal", "signal"),
)


def onset_findings(onsets: pd.DataFrame, steps: Sequence[int], gain: float) -> list[Claim]:
    """Step from which each task is above its floor for good."""
    claims = []
    for row in records(rows(onsets, appears=True)):
        onset, low, high = (float(row[name]) for name in ("onset", "low", "high"))
        since = f"to stay from step {onset:.0f} on"
        if high == steps[0]:
            since = f"at the first checkpoint, step {steps[0]}, to stay"
        from_start = "That it was there from the start is not excluded."
        bounds = f"95 % bounds of {count_noun(len(onsets), 'onset')} together"
        claims.append(
            Claim(
                short=f"{_subject(row)} is there {since} {protocol_phrase(row['protocol'])}.",
                importance=0.9,
                estimate=Estimate(onset, low, high, "steps", bounds),
                details=(
                    f"Accuracy is shown to be {number(100 * gain)} points or more above its floor "
                    f"at every checkpoint from step {high:.0f} on ({row['n_steps']} in all).",
                ),
                caveat=from_start if low == steps[0] < high else "",
                **_common(row, ONSET, "training_onsets"),
            )
        )
    return claims


def first_layer_findings(onsets: pd.DataFrame, n_tests: int) -> list[Claim]:
    """Layers that each task needs first, and those that it needs last."""
    claims = []
    for row in records(onsets.loc[onsets["appears"] & onsets["layers_step"].notna()]):
        first, last = (tuple(map(int, row[f"layers_{name}"])) for name in ("first", "last"))
        same = "the same" if first == last else few_layers(last)
        claims.append(
            Claim(
                short=f"{_subject(row)} is first known to need {few_layers(first)} at step "
                f"{int(row['layers_step'])} {protocol_phrase(row['protocol'])}.",
                importance=0.75,
                layers=first,
                details=(
                    f"At step {int(row['layers_last_step'])} it is known to need {same}.",
                    (
                        f"Exact McNemar tests, Holm over all {count_noun(n_tests, 'test')} of "
                        f"the series."
                    ),
                ),
                **_common(row, FIRST_LAYERS, "training_onsets"),
            )
        )
    return claims


def move_findings(moves: pd.DataFrame) -> list[Claim]:
    """Change of depth in training of what a task needs: deeper, or less deep."""
    claims = []
    for row in records(rows(moves, significant=True)):
        sign, word = (1, "deeper") if row["change"] > 0 else (-1, "less deep")
        size, *ends = (sign * float(row[name]) for name in ("change", "low", "high"))
        early, late = (number(row[name], 1) for name in ("layer_early", "layer_late"))
        claims.append(
            Claim(
                short=f"What {row['capability']} ({row['task']}) needs lies {number(size, 1)} "
                f"layers {word} late in training than early {protocol_phrase(row['protocol'])}.",
                importance=weight(0.85, size / 4),
                estimate=Estimate(size, min(ends), max(ends), f"layers {word}", digits=1),
                p=float(row["p_holm"]),
                test=(
                    f"contrast over items of both halves, Holm over "
                    f"{count_noun(len(moves), 'test')}"
                ),
                details=(
                    f"The centre of mass of the losses is {late} in the later half of its "
                    f"{count_noun(row['n_steps'], 'checkpoint')} with signal and {early} in the "
                    "earlier.",
                    f"They are of steps {row['first_step']} to {row['last_step']}.",
                ),
                **_common(row, MOVES, "training_moves"),
            )
        )
    return claims


def _subject(row: Row) -> str:
    return f"{capitalise(row['capability'])} ({row['task']})"


def _common(row: Row, kind: str, table: str) -> dict[str, Any]:
    n, clusters = row["n_items"], row["n_clusters"]
    return {
        "kind": kind,
        "evidence": ESTABLISHED,
        "source": source(table, {name: row[name] for name in ("task", "protocol")}),
        **claim_scope(pd.DataFrame([row])),
        "items": f"{n} items" + f" in {clusters} clusters" * (n != clusters),
    }
