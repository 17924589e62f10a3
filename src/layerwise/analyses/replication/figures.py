"""Figures of a replication: the verdicts on all claims, and the estimates behind one of them."""

from __future__ import annotations

import textwrap
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.lines import Words, draw_ranges, ranges
from layerwise.presentation.charts.marks import level
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.lettering import characters, label, text_inches
from layerwise.presentation.rows import records
from layerwise.presentation.style import FULL_WIDTH, NOTE, look, new_figure, with_style
from layerwise.presentation.wording import p_value

from .columns import claim_name, effect_words, part_words
from .verdicts.claim import Verdict

# Colours and shapes of the verdicts; they differ in grey, too.
_HOLDS, _OPPOSITE = look(0).color, look(1).color
_MARKS: dict[str, dict[str, Any]] = {
    Verdict.HOLDS: {"marker": "o", "color": _HOLDS, "mfc": _HOLDS},
    Verdict.OPPOSITE: {"marker": "D", "color": _OPPOSITE, "mfc": _OPPOSITE},
    Verdict.OPEN: {"marker": "o", "color": NOTE, "mfc": "white"},
    Verdict.NO_SIGNAL: {"marker": "_", "color": NOTE, "mfc": NOTE},
    Verdict.NOT_ASKED: {"marker": "x", "color": NOTE, "mfc": NOTE},
}
# Inches of a line of text, and of what stands above and below the lines.
_LINE, _AROUND = 0.135, 0.36
# Shares of the width where the columns begin: name, sentence, mark, verdict, number.
_WIDE, _NARROW = (0.0, 0.165, 0.58, 0.60, 0.76), (0.0, 0.0, 0.40, 0.43, 0.70)
_SENTENCES_FROM = 5.0  # inches


@with_style
def verdict_table(verdicts: pd.DataFrame, model: str = "", width: float = FULL_WIDTH) -> Figure:
    """Each claim with its verdict and number; with its sentence, where there is room."""
    wide = width >= _SENTENCES_FROM
    name_at, words_at, mark_at, verdict_at, number_at = _WIDE if wide else _NARROW
    room = characters((mark_at - words_at) * width - 0.15)
    lines, before = [], None
    for row in records(verdicts):
        sentence = str(row["sentence"]) if row["claim"] != before else ""
        before = row["claim"]
        lines.append((row, textwrap.wrap(sentence, room) if wide and sentence else [""]))
    heights = [max(len(words), 1) * _LINE + 0.035 for _, words in lines]
    height = sum(heights) + _AROUND
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.012, 0.0, 0.976, 1.0))
    axes.set_xlim(0, 1)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.set(xticks=[], yticks=[])
    of = f", tested on {label(model, 40)}" if model else ""
    figure.entitle([f"Published claims{of}"])
    y = 0.3
    for number, ((row, words), tall) in enumerate(zip(lines, heights, strict=True)):
        if number % 2:
            axes.axhspan(y - 0.02, y + tall - 0.02, color="0.955", lw=0)
        at = y + _LINE / 2
        verdict = str(row["verdict"])
        write = partial(axes.text, va="center", parse_math=False)
        axes.text(name_at, at, label(claim_name(row), 22), va="center")
        for place, line in enumerate(words if wide else ()):
            write(words_at, at + place * _LINE, line)
        mark = _MARKS.get(verdict, _MARKS[Verdict.OPEN])
        axes.plot([mark_at], [at], ls="", ms=4.5, mew=1.0, clip_on=False, **mark)
        write(verdict_at, at, verdict, color="0.0" if pd.notna(row["p"]) else NOTE)
        shown = effect_words(row)
        if wide:
            write(number_at, at, shown)
        else:
            write(1.0, at, _short(shown), ha="right")
        y += tall
    return figure


def _short(number: str) -> str:
    """A number and its unit in little room."""
    for unit, short in ((" % of the score", " %"), (" accuracy points", " pts"),
                        (" % of the answers", " %"), (" rank correlation", "")):  # fmt: skip
        number = number.replace(unit, short)
    return number


@with_style
def verdict_numbers(
    numbers: pd.DataFrame, verdict: dict[str, Any] | None = None, width: float = FULL_WIDTH
) -> Figure:
    """The estimates of one claim with their 95 % intervals, a line each."""
    several = len(set(numbers["part"])) > 1
    names = [
        f"{part_words(row)}: {row['label']}" if several and row["part"] else str(row["label"])
        for row in records(numbers)
    ]
    away = (numbers["low"] > 0) | (numbers["high"] < 0)
    shown = numbers.assign(label=names, sure=away.fillna(value=False).astype(bool))
    longest = 46 if width >= _SENTENCES_FROM else 24
    title = str(numbers["claim"].iloc[0])
    if verdict is not None:
        p = "" if pd.isna(verdict["p_run"]) else f" ({p_value(verdict['p_run'])}, all claims)"
        title = f"{title}: {verdict['verdict']}{p}"
    left = 0.2 + max(text_inches(label(name, longest)) for name in names)
    panels = Panels([[]], width, (0.2 * len(names) + 0.1,), left=left, most=FULL_WIDTH)
    (axes,) = panels.flat
    level(axes, 0, upright=True)
    groups = [({}, look(0), "")]
    several_words = Words("interval excludes 0", "it may be 0", interval="95 % interval")
    drawn = ranges(shown, names, "label", groups, sure="sure")
    draw_ranges(axes, names, drawn, several_words, longest=longest)
    return panels.finish(title, x=str(numbers["unit"].iloc[0]))
