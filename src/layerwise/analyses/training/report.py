"""The page of a series: its claims with their rows, its figures and its tables.

Nothing is computed from answers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from layerwise.errors import UserError
from layerwise.presentation.claim import ESTABLISHED, Claim, Estimate, evidence, source, weight
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.page import Report, drawn, filled
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.section import FigureSpec, Table, bounds
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalised,
    counted,
    in_order,
    layer_ranges,
    number,
    p_value,
    spread,
    when,
)

from .joined import JoinedCheckpoints, n_layer_tests

_MOST = 1000
# Claims on the first screen.
_FIRST = 6
ONSET, FIRST_LAYERS, MOVES = "onset", "first layers", "moves"
_LONGEST = 9
Row = dict[str, Any]


def series_report(series: JoinedCheckpoints) -> Report:
    """The page of a series, as ``TrainingSeries.report`` gives it."""
    claims = sentences(series)
    return Report(tuple(claims), lambda: _page(series, claims))


def _page(series: JoinedCheckpoints, claims: Sequence[Claim]) -> tuple[str, dict[str, Any]]:
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
        findings=[(claim, _rows_of(series, claim)) for claim in claims],
        most=_FIRST,
        not_there=not_there(series.onsets),
        pictures=[made[drawing] for drawing in drawings],
        tables=_tables(series),
    )
    return text, figures


def sentences(series: JoinedCheckpoints) -> list[Claim]:
    """What the tables of a series earn, the most important first."""
    with naming_layers_of(series.facts.runs[0].facts.model):
        claims = [
            *onset_findings(series.onsets, series.facts.steps, series.facts.smallest_gain),
            *first_layer_findings(series.onsets, n_layer_tests(series.accuracy, series.layers)),
            *move_findings(series.moves),
        ]
    return sorted(claims, key=lambda finding: -finding.importance)


def figure_of(series: JoinedCheckpoints, protocol: str | None = None) -> Any:
    """The figure of one protocol, at its full width."""
    protocols = in_order(series.accuracy["protocol"], PROTOCOL_ORDER)
    chosen = protocols[0] if protocol is None else protocol
    if chosen not in protocols:
        raise UserError(
            f"The series has no protocol {chosen!r}: expected one of {', '.join(protocols)}."
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
    figures = []
    for protocol in in_order(series.accuracy["protocol"], PROTOCOL_ORDER):
        items = spread(rows(series.accuracy, protocol=protocol)["n_items"])
        caption = (
            f"What is learned at which step {when(protocol)}: above, accuracy of the intact model "
            f"at each checkpoint with exact 95 % intervals (n = {items}), dashed when asked other "
            "items' questions; upright line: the onset, on grey its interval (all of the series "
            "hold together in 95 %). Below, the share of the above-floor accuracy that is lost "
            "when a layer is skipped; dots: significant losses (exact McNemar tests, Holm over the "
            "series); "
            "hatched: no signal (Holm over the series)."
        )
        alt = f"Accuracy over checkpoints, and maps of layers by checkpoints, {protocol}."
        figures.append(FigureSpec(f"training_{protocol}", _course(series, protocol), caption, alt))
    return figures


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
            "established" if row["significant"] else "open",
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


def onset_findings(onsets: pd.DataFrame, steps: Sequence[int], gain: float) -> list[Claim]:
    """When each task is above its floor for good."""
    sure = records(rows(onsets, appears=True))
    return [_onset(row, len(onsets), steps, gain) for row in sure]


def first_layer_findings(onsets: pd.DataFrame, n_tests: int) -> list[Claim]:
    """Which layers each task needs first, and which last."""
    appearing = rows(onsets, appears=True)
    return [
        _first(row, n_tests) for row in records(appearing.loc[appearing["layers_step"].notna()])
    ]


def move_findings(moves: pd.DataFrame) -> list[Claim]:
    """Whether what a task needs comes to lie deeper, or less deep, in training."""
    return [_move(row, len(moves)) for row in records(rows(moves, significant=True))]


def not_there(onsets: pd.DataFrame) -> list[str]:
    """What is not shown to be there at the end, in words for the page."""
    return [
        f"{row['task']} {when(row['protocol'])} ({p_value(row['p_corrected'])} at the last step)"
        for row in records(rows(onsets, appears=False))
    ]


def _onset(row: Row, n_rows: int, steps: Sequence[int], gain: float) -> Claim:
    onset, low, high = (float(row[name]) for name in ("onset", "low", "high"))
    since = f"to stay from step {onset:.0f} on"
    if high == steps[0]:
        since = f"at the first checkpoint, step {steps[0]}, to stay"
    from_start = "That it was there from the start is not excluded."
    bounds = f"95 % bounds of {counted(n_rows, 'onset')} together"
    return Claim(
        short=f"{capitalised(row['capability'])} ({row['task']}) is there {since} "
        f"{when(row['protocol'])}.",
        importance=0.9,
        estimate=Estimate(onset, low, high, "steps", bounds),
        details=(
            f"Accuracy is shown to be {number(100 * gain)} points or more above its floor at "
            f"every checkpoint from step {high:.0f} on ({row['n_steps']} in all).",
        ),
        caveat=from_start if low == steps[0] < high else "",
        **_common(row, ONSET, "training_onsets"),
    )


def _first(row: Row, tests: int) -> Claim:
    first, last = (tuple(map(int, row[f"layers_{name}"])) for name in ("first", "last"))
    need = _layers(first)
    is_long = len(need.split()) > _LONGEST
    return Claim(
        short=f"{capitalised(row['capability'])} ({row['task']}) is first known to need "
        f"{counted(len(first), 'layer') if is_long else need} at step "
        f"{int(row['layers_step'])} {when(row['protocol'])}.",
        importance=0.75,
        layers=first,
        details=(
            *((f"They are {need}.",) if is_long else ()),
            f"At step {int(row['layers_last_step'])} it is known to need "
            f"{'the same' if first == last else _layers(last)}.",
            f"Exact McNemar tests, Holm over all {counted(tests, 'test')} of the series.",
        ),
        **_common(row, FIRST_LAYERS, "training_onsets"),
    )


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {layer_ranges(layers)}"


def _move(row: Row, n_rows: int) -> Claim:
    sign, word = (1, "deeper") if row["change"] > 0 else (-1, "less deep")
    size, *ends = (sign * float(row[name]) for name in ("change", "low", "high"))
    early, late = (number(row[name], 1) for name in ("layer_early", "layer_late"))
    return Claim(
        short=f"What {row['capability']} ({row['task']}) needs lies {number(size, 1)} layers "
        f"{word} late in training than early {when(row['protocol'])}.",
        importance=weight(0.85, size / 4),
        estimate=Estimate(size, min(ends), max(ends), f"layers {word}", digits=1),
        p=float(row["p_holm"]),
        test=f"contrast over items of both halves, Holm over {counted(n_rows, 'test')}",
        details=(
            f"The centre of mass of the losses is {late} in the later half of its "
            f"{counted(row['n_steps'], 'checkpoint')} with signal and {early} in the earlier.",
            f"They are of steps {row['first_step']} to {row['last_step']}.",
        ),
        **_common(row, MOVES, "training_moves"),
    )


def _common(row: Row, kind: str, table: str) -> dict[str, Any]:
    n, clusters = row["n_items"], row["n_clusters"]
    return {
        "kind": kind,
        "evidence": ESTABLISHED,
        "source": source(table, {name: row[name] for name in ("task", "protocol")}),
        **asked_of(pd.DataFrame([row])),
        "items": f"{n} items" + f" in {clusters} clusters" * (n != clusters),
    }
