"""Where the columns of a role map go: widths, groups by capability, line breaks.

All lengths are inches. Nothing is drawn here and no statistic is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from layerwise.presentation.lettering import text_inches
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

NARROW, BROAD = 0.135, 0.5
GAP, TASK_GAP = 0.1, 0.04


@dataclass(frozen=True)
class TaskBlock:
    """The columns of one task: one per protocol, side by side."""

    capability: str
    task: str
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A task's block at its place: ``left`` edge and ``column`` width."""

    block: TaskBlock
    left: float
    column: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.column * len(self.block.protocols)


@dataclass(frozen=True)
class Band:
    """One strip of the map: blocks beside each other, and where each capability lies."""

    blocks: tuple[Placed, ...]
    headings: tuple[tuple[str, float, float], ...]
    width: float


def task_blocks(effects: pd.DataFrame) -> list[TaskBlock]:
    """The tasks of an effects table by capability, each with its protocols in order."""
    blocks = []
    for capability in in_order(effects["capability"], CAPABILITY_ORDER):
        mine = rows(effects, capability=capability)
        for task in in_order(mine["task"], ()):
            protocols = in_order(rows(mine, task=task)["protocol"], PROTOCOL_ORDER)
            blocks.append(TaskBlock(str(capability), str(task), tuple(protocols)))
    return blocks


def layout(blocks: list[TaskBlock], room: float) -> list[Band]:
    """Blocks in one band with columns as broad as fit, or in several with narrow ones."""
    broad = BROAD
    while broad > NARROW and _band(blocks, broad).width > room:
        broad -= 0.005
    bands: list[list[TaskBlock]] = [[]]
    for block in blocks:
        if bands[-1] and _band([*bands[-1], block], max(broad, NARROW)).width > room:
            bands.append([])
        bands[-1].append(block)
    return [_band(band, max(broad, NARROW)) for band in bands]


def _band(blocks: list[TaskBlock], column: float) -> Band:
    left, placed, headings = 0.0, [], []
    for capability in dict.fromkeys(block.capability for block in blocks):
        start = left
        for block in (block for block in blocks if block.capability == capability):
            placed.append(Placed(block, left, column))
            left = placed[-1].right + TASK_GAP
        end = left - TASK_GAP
        headings.append((capability, start, end))
        # A heading broader than its columns needs the room beside them.
        left = max(end, start + text_inches(capability)) + GAP
    return Band(tuple(placed), tuple(headings), left - GAP)
