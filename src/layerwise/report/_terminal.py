"""The first screen of a run as plain text of 80 columns, for terminals and notebooks' output."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from layerwise.presentation.power import DetectableEffects
from layerwise.report._answer import Answer, CapabilityBlock, StripColumn

WIDTH, MOST_LINES = 80, 39
_SHADES = "·░░░▒▒▒▓▓██"
_NEEDED, _PARTICULAR, _ALL = "•", "◆", "━"
_STRENGTHS = ("", _ALL, _NEEDED, _PARTICULAR, *dict.fromkeys(_SHADES))
_ROOM = 26  # for the names of a row


def answer_text(answer: Answer, sure: DetectableEffects | None) -> str:
    """The answer, the strip, the claims that fit, how sure that is, and what is not shown."""
    before = [*_wrap(answer.about), *_wrap(answer.headline), *answer.lines, *_strip(answer)]
    after = [*_wrap("How sure: " + " ".join(sure.sentences) if sure else "")]
    after += _wrap("Not shown: " + " ".join(answer.not_shown) if answer.not_shown else "")
    room = MOST_LINES - len(before) - len(after)
    lines: list[str] = []
    for claim in answer.claims:
        shown = _wrap(f"- {claim.short} ({claim.evidence})", "  ")
        if len(lines) + len(shown) <= room:
            lines += shown
    return "\n".join([*before, *lines, *after])


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False)


def _strip(answer: Answer) -> Iterator[str]:
    """The strip over the layers: a row for each band, and one of marks for each capability."""
    if not answer.blocks:
        return
    columns = answer.columns
    room = WIDTH - _ROOM - 1
    size = -(-len(columns) // room)  # layers in one character
    wide = 2 if 2 * len(columns) <= room else 1  # characters of a layer
    groups = [columns[i : i + size] for i in range(0, len(columns), size)]

    def row(mark: Callable[[int], str]) -> str:
        """The strongest mark of each group of layers."""
        return "".join(
            " " * any(at.starts_stack for at in group)
            + f"{max((mark(at.layer) for at in group), key=_STRENGTHS.index) or ' ':{wide}}"
            for group in groups
        )

    yield _labelled_row("", _axis(groups, wide, stacks=True))
    yield _labelled_row("", _axis(groups, wide))
    if answer.general:
        yield _labelled_row(
            "needed by all", row(lambda layer: _ALL if layer in answer.general else "")
        )
    for block in answer.blocks:
        yield from _block(block, row)
    yield _legend(answer, size)
    yield ""


def _block(block: CapabilityBlock, row: Callable[[Callable[[int], str]], str]) -> Iterator[str]:
    def mark(layer: int) -> str:
        return (
            _PARTICULAR if layer in block.particular else _NEEDED if layer in block.needed else ""
        )

    for i, band in enumerate(block.bands):
        shades = {layer: _SHADES[cell.shade or 0] for layer, cell in band.cells.items()}
        name = block.capability.capitalize() if i == 0 else ""
        yield _labelled_row(
            f"{name:<11}{band.words}",
            band.silent or row(lambda at, shades=shades: shades.get(at, "")),
        )
    if block.needed or block.particular:
        yield _labelled_row("", row(mark))


def _labelled_row(name: str, row: str) -> str:
    return f"{name:<{_ROOM}}{row}".rstrip()


def _axis(groups: Sequence[Sequence[StripColumn]], wide: int, stacks: bool = False) -> str:
    """The labels over their layers, as far as there is room; names of stacks over their first."""
    line, at, last = "", 0, ""
    for group in groups:
        at += any(column.starts_stack for column in group)
        label = next((column.label for column in group if column.label), "")
        if stacks:
            label = group[-1].stack if group[-1].stack != last else ""
            last = group[-1].stack
        if label and (at == 0 or len(line) < at):
            line = f"{line:<{at}}{label}"
        at += wide
    return line


def _legend(answer: Answer, size: int) -> str:
    parts = [f"{''.join(dict.fromkeys(_SHADES))} 0 to 100 % lost"]
    parts += [f"{_NEEDED} needed"] * any(b.needed - b.particular for b in answer.blocks)
    parts += [f"{_PARTICULAR} crosses"] * any(b.particular for b in answer.blocks)
    parts += [f"1 character = {size} layers"] * (size > 1)
    return f"{'  '.join(parts):>{WIDTH}}"
