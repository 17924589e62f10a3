"""What a figure needs to stand on a page: how it is drawn, its name, caption and description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureSpec:
    """A figure to be drawn, at whatever width is asked for.

    Attributes:
        name: of its files, unique within a run.
        draw: gives the figure for a width in inches.
        caption: what is shown, under which protocols, with how many items, and the intervals.
        alt: the same in short, for those who do not see it.
    """

    name: str
    draw: Callable[..., Figure]
    caption: str
    alt: str
