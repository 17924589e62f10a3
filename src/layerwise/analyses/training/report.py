"""The page of a series: its sentences with their rows, its figures and its tables.

Nothing is computed from answers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from layerwise.errors import UserError
from layerwise.presentation.claim import Claim
from layerwise.presentation.evidence import evidence
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.page import Report, drawn, filled
from layerwise.presentation.rows import records, rows
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    in_order,
    layer_ranges,
    number,
    p_value,
    spread,
)

from .findings import first_layer_findings, move_findings, not_there, onset_findings
from .joined import JoinedCheckpoints, n_layer_tests

_MOST = 1000
# Claims on the first screen.
_FIRST = 6


def series_report(series: JoinedCheckpoints) -> Report:
    """The page of a series, as ``TrainingSeries.report`` gives it."""
    told = sentences(series)
    return Report(tuple(told), lambda: _page(series, told))


def _page(series: JoinedCheckpoints, told: Sequence[Claim]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name."""
    model = series.facts.runs[0].facts.model
    drawings = _drawings(series)
    made, figures = drawn([(drawing.name, drawing, model) for drawing in drawings])
    text = filled(
        "layerwise.analyses.training",
        "training.html.j2",
        name=model.name,
        facts=series.facts,
        gain=number(100 * series.facts.smallest_gain),
        findings=[(one, _rows_of(series, one)) for one in told],
        most=_FIRST,
        not_there=not_there(series.onsets),
        pictures=[made[drawing] for drawing in drawings],
        tables=_tables(series),
    )
    return text, figures


def sentences(series: JoinedCheckpoints) -> list[Claim]:
    """What the tables of a series earn, the most important first."""
    with naming_layers_of(series.facts.runs[0].facts.model):
        found = [
            *onset_findings(series.onsets, series.facts.steps, series.facts.smallest_gain),
            *first_layer_findings(series.onsets, n_layer_tests(series.accuracy, series.layers)),
            *move_findings(series.moves),
        ]
    return sorted(found, key=lambda finding: -finding.importance)


def figure_of(series: JoinedCheckpoints, protocol: str | None = None) -> Any:
    """The figure of one protocol, at its full width."""
    asked = in_order(series.accuracy["protocol"], PROTOCOL_ORDER)
    chosen = asked[0] if protocol is None else protocol
    if chosen not in asked:
        raise UserError(
            f"The series has no protocol {chosen!r}: expected one of {', '.join(asked)}."
        )
    with naming_layers_of(series.facts.runs[0].facts.model):
        return _course(series, chosen)()


def _course(series: JoinedCheckpoints, protocol: str) -> partial[Any]:
    from .figures import training_course

    n_layers = series.facts.runs[0].facts.model.n_layers
    return partial(
        training_course, series.accuracy, series.layers, series.onsets, n_layers, protocol
    )


def _drawings(series: JoinedCheckpoints) -> list[FigureSpec]:
    found = []
    for protocol in in_order(series.accuracy["protocol"], PROTOCOL_ORDER):
        items = spread(rows(series.accuracy, protocol=protocol)["n_items"])
        caption = (
            f"What is learned when, under {protocol}: above, accuracy of the intact model at each "
            f"checkpoint with exact 95 % intervals (n = {items}), dashed when asked other items' "
            "questions; orange: the onset with its interval (all of the series hold together in "
            "95 %). Below, the share of the above-floor accuracy that is lost when a layer is "
            "skipped; dots: significant losses (exact McNemar tests, Holm over the series); "
            "hatched: no signal (Holm over the series)."
        )
        alt = f"Accuracy over checkpoints, and maps of layers by checkpoints, {protocol}."
        found.append(FigureSpec(f"training_{protocol}", _course(series, protocol), caption, alt))
    return found


def _rows_of(series: JoinedCheckpoints, finding: Claim) -> Table:
    name = finding.source["table"]
    table = getattr(series, name.removeprefix("training_"))
    return evidence(finding, table, f"{name}.parquet")


def _tables(series: JoinedCheckpoints) -> list[Table]:
    with naming_layers_of(series.facts.runs[0].facts.model):
        return [_onsets(series), _moves(series), _accuracy(series), _checkpoints(series)]


def _onsets(series: JoinedCheckpoints) -> Table:
    cells = [
        [
            row["task"], row["capability"], row["protocol"], str(row["n_items"]),
            "yes" if row["appears"] else "not shown", p_value(row["p_corrected"]),
            f"{row['onset']} [{row['low']}, {row['high']}]" if row["appears"] else "–",
            *(_needed(row, name) for name in ("first", "last")),
        ]
        for row in records(series.onsets)
    ]  # fmt: skip
    columns = (
        "task", "capability", "protocol", "n", "there at the end", "p (corrected)",
        "onset [interval]", "first needs layers", "last needs layers",
    )  # fmt: skip
    return Table(f"Onsets ({len(cells)})", columns, cells)


def _needed(row: dict[str, Any], name: str) -> str:
    step = row["layers_step" if name == "first" else "layers_last_step"]
    if not isinstance(step, int):
        return "–"
    return f"{layer_ranges(row[f'layers_{name}'])} (step {step})"


def _moves(series: JoinedCheckpoints) -> Table:
    cells = [
        [
            row["task"], row["capability"], row["protocol"], str(row["n_items"]),
            f"{row['first_step']} to {row['last_step']} ({row['n_steps']})",
            number(row["layer_early"], 2), number(row["layer_late"], 2),
            bounds(row, "change", "low", "high", 1, 2), p_value(row["p"]), p_value(row["p_holm"]),
            "told" if row["significant"] else "not told",
        ]
        for row in records(series.moves)
    ]  # fmt: skip
    columns = (
        "task", "capability", "protocol", "n", "steps with signal", "layer, earlier half",
        "layer, later half", "deeper by", "p", "p (Holm)", "move is",
    )  # fmt: skip
    return Table(f"Does its place move? ({len(cells)})", columns, cells, collapsed=True)


def _accuracy(series: JoinedCheckpoints) -> Table:
    cells = [
        [
            str(row["step"]), row["task"], row["protocol"], str(row["n_items"]),
            bounds(row, "accuracy", "low", "high", 100), number(100 * row["blind"]),
            number(100 * row["no_layers"]), p_value(row["p_series"]),
            "yes" if row["signal"] else "no",
        ]
        for row in records(series.accuracy.head(_MOST))
    ]  # fmt: skip
    columns = (
        "step", "task", "protocol", "n", "accuracy (%)", "blind (%)", "no layers (%)",
        "p (Holm, series)", "signal",
    )  # fmt: skip
    return Table(f"Accuracy by step ({len(cells)})", columns, cells, collapsed=True)


def _checkpoints(series: JoinedCheckpoints) -> Table:
    cells = [
        [str(step), run.facts.model.name, run.facts.model.hash[:12]]
        for step, run in zip(series.facts.steps, series.facts.runs, strict=True)
    ]
    return Table(f"Checkpoints ({len(cells)})", ("step", "model", "hash"), cells, collapsed=True)
