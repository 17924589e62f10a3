"""What commands print: results as tables, the work that was done, where everything lies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from layerwise.errors import printable

if TYPE_CHECKING:
    from layerwise.storage.base import Result

# What is not read on a terminal is not cut to its width.
WIDE = 240
# Of a series.
SENTENCES = 12


def say(text: object, err: bool = False) -> None:
    """Print text; what names of files, tasks and models hold is shown and not obeyed."""
    typer.echo(printable(str(text), lines=True), err=err)


def show_result(result: Result, out: Path | None) -> None:
    """A result's compact table, what was planned and what it took, and where its data lie."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = result.summary_rows()
    shown = Table(box=SIMPLE, pad_edge=False, padding=0)
    texts = table.astype(object).where(table.notna(), "").astype(str)
    for name in texts:
        words = " ".join([str(name), *texts[name]]).split()
        # Lines break between words, as far as there is room.
        shown.add_column(_text(name), overflow="fold", min_width=max(map(len, words), default=1))
    for row in texts.itertuples(index=False):
        shown.add_row(*map(_text, row))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(_text(repr(result)))
    console.print(shown if len(table) else _text(result.if_empty))
    show_notes(result)
    _tell_planned(result)
    if out is not None:
        say(f"Tables: {out}")


def show_notes(result: Result) -> None:
    """A result's notes; lines break between words, but for those of a command, to be copied."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for line in "\n".join(result.notes()).splitlines():
        console.print(_text(line), soft_wrap=line.startswith("  layerwise "))


def show_profile(profile: Any, out: Path | None) -> None:
    """The answer of a profile, and where its page lies."""
    _tell_work(profile.work, "layer, item and option")
    _tell_planned(profile.results[0])
    say(profile.report.text)
    say(f"Report: {profile.path}")


def show_removal(removal: Any, out: Path | None) -> None:
    """An order of removal, and how much less was done than trying all."""
    show_result(removal, out)
    _tell_work(removal.work, "candidate, item and option")


def show_written(written: Any, out: Path) -> None:
    """What the written model does beside others, and where it lies."""
    from layerwise.analyses.shared.written_model import TABLES

    show_result(written, out / TABLES)
    say(f"Model: {out}")


def show_series(series: Any, out: Path | None) -> None:
    """What a series of checkpoints says, and where its page lies."""
    from layerwise.storage.places import SERIES_PAGE

    say(repr(series))
    tell_claims(series.findings()[:SENTENCES])
    if out is not None:
        say(f"Series: {out / SERIES_PAGE}")


def tell_claims(claims: Any) -> None:
    """A line for each claim, with its evidence."""
    for claim in claims:
        say(f"- {claim.short} ({claim.evidence})")


def _tell_work(work: dict[str, float], each: str) -> None:
    """How much less was done than one forward for each pair of change and request."""
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


def _tell_planned(result: Result) -> None:
    """What was planned and what was made, in one line."""
    from layerwise.runs.records import planned_and_actual

    line = planned_and_actual(result.facts.work)
    if line is not None:
        say(line)


def tell_time(seconds: float) -> None:
    """How long a command took, by the clock."""
    from layerwise.runs.records import seconds_in_words

    say(f"Took {seconds_in_words(seconds)}.")


def _text(value: object) -> Any:
    """A cell as ``Text``, for rich would read square brackets in names as its own markup."""
    from rich.text import Text

    return Text(printable(str(value), lines=True))
