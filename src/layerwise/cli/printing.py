"""Printed lines of commands: results as tables, the work that was done, where everything lies."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from layerwise.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from layerwise.prompts.grid import Grid
    from layerwise.storage.base import Result


# What is not read on a terminal is not cut to its width.
WIDE = 240
# Of a series.
SENTENCES = 12


def say(text: object, err: bool = False) -> None:
    """Print text; what names of files, tasks and models hold is shown and not obeyed."""
    typer.echo(printable(str(text), lines=True), err=err)


def say_start(what: str, *names: str) -> None:
    """Say on the error stream what takes a while, before what is slow to import is imported."""
    with contextlib.suppress(OSError, ValueError):  # a run does not end for want of such a line
        say(f"layerwise: {what} {' and '.join(names)} ...", err=True)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE)


def show_result(result: Result, out: Path | None) -> None:
    """A result's compact table, what was planned and what it took, and where its data lie."""
    table = result.summary_rows()
    texts = table.astype(object).where(table.notna(), "").astype(str)
    shown = _table(padding=0)
    for name in texts:
        words = " ".join([str(name), *texts[name]]).split()
        # Lines break between words, as far as there is room.
        shown.add_column(_text(name), overflow="fold", min_width=max(map(len, words), default=1))
    for row in texts.itertuples(index=False):
        shown.add_row(*map(_text, row))
    console = _console()
    console.print(_text(repr(result)))
    console.print(shown if len(table) else _text(result.if_empty))
    _show_notes(result)
    _show_plan(result)
    if out is not None:
        say(f"Tables: {out}")


def _show_notes(result: Result) -> None:
    """A result's notes; lines break between words, but for those of a command, to be copied."""
    for line in "\n".join(result.notes()).splitlines():
        _console().print(_text(line), soft_wrap=line.startswith("  layerwise "))


def show_profile(profile: Any, out: Path | None) -> None:
    """The answer of a profile, and where its page lies."""
    _show_work(profile.work, "layer, item and option")
    _show_plan(profile.results[0])
    say(profile.report.text)
    say(f"Report: {profile.path}")


def show_removal(removal: Any, out: Path | None) -> None:
    """An order of removal, and how much less was done than trying all."""
    show_result(removal, out)
    _show_work(removal.work, "candidate, item and option")


def show_written_model(written: Any, out: Path) -> None:
    """Print what the written model does beside others, and where it lies."""
    from layerwise.analyses.shared.written_model import TABLES

    show_result(written, out / TABLES)
    say(f"Model: {out}")


def show_series(series: Any, out: Path | None) -> None:
    """Summary of a series of checkpoints, and where its page lies."""
    from layerwise.storage.places import SERIES_PAGE

    say(repr(series))
    show_claims(series.findings()[:SENTENCES])
    if out is not None:
        say(f"Series: {out / SERIES_PAGE}")


def show_claims(claims: Any) -> None:
    """A line for each claim, with its evidence."""
    for claim in claims:
        say(f"- {claim.short} ({claim.evidence})")


def _show_work(work: dict[str, float], each: str) -> None:
    """Ratio of the work to one forward for each pair of change and request."""
    if work["token_passes"]:
        ratio = work["brute_force_token_passes"] / work["token_passes"]
        say(
            f"Work: {ratio:.1f} times fewer token-passes through a layer than one forward per "
            f"{each}; {work['seconds']:.0f} s in sweeps."
        )
    if "brute_force_seconds" in work:
        faster = work["brute_force_seconds"] / work["seconds"]
        say(
            f"That was some {faster:.0f} times faster than one plain hooked forward per {each}, "
            f"which would have taken about {work['brute_force_seconds']:,.0f} s, as timed on a few."
        )


def _show_plan(result: Result) -> None:
    """Print what was planned and what was made, in one line."""
    from layerwise.runs.records import work_line

    line = work_line(result.facts.work)
    if line is not None:
        say(line)


def _text(value: object) -> Any:
    """A cell as ``Text``, for rich would read square brackets in names as its own markup."""
    from rich.text import Text

    return Text(printable(str(value), lines=True))


def show_items(items: Any, layer: str, *, every: bool) -> None:
    """A table for each way of scoring, and how many items changed."""
    from layerwise.analyses.ablation.page.examples import shorten
    from layerwise.presentation.wording import protocol_phrase

    # Longer texts lose their middle; the columns wrap what is left between words.
    longest = {"question": 100, "gold": 30, "intact": 30, "without": 30}
    narrow = 13 if sys.stdout.isatty() else None
    heads: dict[str, int | None] = {"": None, "asked": None}
    heads |= dict.fromkeys(("answer", "intact", f"without {layer}"), narrow)
    for protocol, group in items.groupby("protocol", sort=True):
        lost, gained = (int((group["fate"] == fate).sum()) for fate in ("lost", "gained"))
        say(
            f"{group['task'].iloc[0]}, {protocol_phrase(protocol)}, without layer {layer}: "
            f"{lost} lost, "
            f"{gained} gained, of {len(group)} items."
        )
        shown = group if every else group.loc[group["fate"].isin(("lost", "gained"))]
        rows = [[row["fate"], *(shorten(row[name], most) for name, most in longest.items())]
                for row in shown.to_dict("records")]  # fmt: skip
        margins = shown["margin_change"]
        if margins.notna().any():
            rows = [[*row, f"{change:+.1f} nats"]
                    for row, change in zip(rows, margins, strict=True)]  # fmt: skip
        if rows:
            more = {"margin": None} if margins.notna().any() else {}
            _print(heads | more, rows, whole=("", "margin"))
    if not every:
        say("--all lists the items that did not change, too.")


def show_score(result: Any, out: Path | None) -> None:
    """A model's accuracy beside its controls, and what to try where it has no signal."""
    say(
        f"{result!r}\n\n"
        "Percent of items that are right, with the 95 % interval, and what that is\n"
        "compared with: chance; blind, asked another item's question; none, without any\n"
        "layer. takes: the option that is taken most often."
    )
    rows = [list(map(str, row)) for row in result.summary_rows().itertuples(index=False)]
    heads = ("task", "way of scoring", "n", "right", "chance", "blind", "none", "takes", "signal")
    _print(dict.fromkeys(heads), rows, whole=heads[1:])
    _show_notes(result)
    if out is not None:
        say(f"Tables: {out}")


def _print(heads: dict[str, int | None], rows: list[list[str]], whole: tuple[str, ...]) -> None:
    """Print a table that breaks lines between words alone."""
    from rich.text import Text

    table = _table(padding=(0, 1, 0, 0))
    for head, width in heads.items():
        table.add_column(head, overflow="ellipsis", max_width=width, no_wrap=head in whole)
    for row in rows:
        table.add_row(*(Text(printable(text)) for text in row))
    _console().print(table)


def _table(padding: Any) -> Any:
    """A table with lines under its heads and at its ends alone."""
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(box=SIMPLE, pad_edge=False, padding=padding)


def print_grid(grid: Grid) -> None:
    """Print a grid as wide as the terminal; of many columns the last."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from layerwise.prompts.drawing import cell_colors
    from layerwise.prompts.grid import ILLUSTRATION, SHARE
    from layerwise.prompts.texts import probability

    console = Console()
    # Without colours the values stand behind the texts.
    plain = console.no_color or console.color_system is None
    size = 14 if plain else 9
    means = "behind each text" if plain else "colour"
    console.print(Text(f"{grid.title} ({means}: {grid.unit})", style="bold"))
    for place, panel in enumerate(grid.panels):
        names = max(len(panel.row_axis), *map(len, panel.rows)) + 1
        first = max(0, len(panel.columns) - (console.width - names) // (size + 1))
        table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column(Text(panel.row_axis), justify="right")
        for name in panel.columns[first:]:
            table.add_column(Text(name[:size]), width=size, no_wrap=True, overflow="crop")
        cells = grid.cells(place)
        order = range(len(panel.rows))
        for row in reversed(order) if grid.upward else order:
            texts = []
            for column in range(first, len(panel.columns)):
                cell = cells.get((row, column))
                if cell is None:
                    texts.append(Text(""))
                    continue
                back, front = cell_colors(grid.bar, cell.value)
                if plain:
                    value = probability(cell.value) if grid.scale == SHARE else f"{cell.value:.1f}"
                    texts.append(Text(f"{cell.text[: size - 5]} {value}"))
                else:
                    texts.append(Text(cell.text[:size].ljust(size), style=f"{front} on {back}"))
            table.add_row(Text(panel.rows[row]), *texts)
        console.print(table)
        if first:
            shown = f"{len(panel.columns) - first} of {len(panel.columns)} columns"
            console.print(f"Shown are the last {shown}: a wider terminal has room for more.")
    for note in grid.notes:
        console.print(Text(note))
    console.print(Text(ILLUSTRATION, style="dim"))
