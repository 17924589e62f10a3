"""The first screen of a run as plain text of 80 columns, for terminals and notebooks' output."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from layerwise.presentation.power import HowSure
from layerwise.report._answer import Answer, Band, Block

WIDTH, MOST_LINES = 80, 39
_SHADES = "·░░░▒▒▒▓▓██"
_NEEDED, _MORE, _ALL = "•", "◆", "━"
_ROOM = 26  # for the names of a row


def answer_text(answer: Answer, sure: HowSure | None) -> str:
    """The answer, the strip, the claims that fit, how sure that is, and what is not shown.

    Args:
        answer: the first screen.
        sure: how small a loss the run would have shown; None if no layer was tested.
    """
    before = [*_wrapped(answer.about), *_wrapped(answer.headline), *_strip(answer)]
    after = [*_wrapped("How sure: " + " ".join(sure.sentences) if sure else "")]
    after += _wrapped("Not shown: " + " ".join(answer.not_shown) if answer.not_shown else "")
    room = MOST_LINES - len(before) - len(after)
    lines: list[str] = []
    for claim in answer.claims:
        shown = _wrapped(f"- {claim.short} ({claim.evidence})", "  ")
        if len(lines) + len(shown) <= room:
            lines += shown
    return "\n".join([*before, *lines, *after])


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False)


def _strip(answer: Answer) -> Iterator[str]:
    """The strip over the layers: a row for each band, and one of marks for each capability."""
    if not answer.blocks:
        return
    layers = [column.layer for column in answer.columns]
    size = -(-len(layers) // (WIDTH - _ROOM - 1))  # layers in one character
    groups = [layers[i : i + size] for i in range(0, len(layers), size)]
    gap = next((column.layer for column in answer.columns if column.starts_stack), None)
    row = _row_of(groups, gap)
    yield ""
    yield f"{'':{_ROOM}}{_axis(answer, groups, gap)}".rstrip()
    if answer.general:
        yield _named("needed by all", row(lambda layer: _ALL if layer in answer.general else ""))
    for block in answer.blocks:
        yield from _block(block, row)
    yield _legend(answer, size)
    yield ""


_Row = Callable[[Callable[[int], str]], str]


def _row_of(groups: Sequence[Sequence[int]], gap: int | None) -> _Row:
    """What writes one character for each group of layers: the strongest of its marks."""

    def row(mark: Callable[[int], str]) -> str:
        parts = [
            " " * (gap in group) + max(map(mark, group), key=_strength) or " " for group in groups
        ]
        return "".join(part or " " for part in parts)

    return row


def _strength(mark: str) -> int:
    return ("", _ALL, _NEEDED, _MORE, *dict.fromkeys(_SHADES)).index(mark)


def _block(block: Block, row: _Row) -> Iterator[str]:
    name = block.capability.capitalize()
    for i, band in enumerate(block.bands):
        label = f"{name if i == 0 else '':<11}{band.words}"
        yield _named(label, band.silent or row(lambda layer, band=band: _shade(band, layer)))
    if block.needed or block.more:
        yield _named("", row(lambda layer: _mark(block, layer)))


def _shade(band: Band, layer: int) -> str:
    cell = band.cells.get(layer)
    return "" if cell is None else _SHADES[cell.shade]


def _mark(block: Block, layer: int) -> str:
    return _MORE if layer in block.more else _NEEDED if layer in block.needed else ""


def _named(name: str, row: str) -> str:
    return f"{name:<{_ROOM}}{row}".rstrip()


def _axis(answer: Answer, groups: Sequence[Sequence[int]], gap: int | None) -> str:
    labels = {column.layer: column.label for column in answer.columns}
    line = ""
    at = 0
    for group in groups:
        at += gap in group
        label = next((labels[layer] for layer in group if labels[layer]), "")
        if label and len(line) <= max(at - 1, 0):
            line = f"{line:<{at}}{label}"
        at += 1
    return line


def _legend(answer: Answer, size: int) -> str:
    parts = [f"{''.join(dict.fromkeys(_SHADES))} 0 to 100 % lost"]
    parts += [f"{_NEEDED} established"] * any(block.needed for block in answer.blocks)
    parts += [f"{_MORE} more than another capability"] * any(b.more for b in answer.blocks)
    parts += [f"one character: {size} layers"] * (size > 1)
    return f"{'  '.join(parts):>{WIDTH}}"
