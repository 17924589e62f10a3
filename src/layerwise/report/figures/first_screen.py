"""The picture of a page's first screen for a paper: what each capability loses without a layer."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from layerwise.presentation.charts.heat import LOST, Cells, Mark, Strip, strips
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import count_noun
from layerwise.report._answer import Answer, CapabilityBlock

_NEEDED = Mark("needed, rows taken together", lambda _: True, gid="needed")
_PARTICULAR = Mark(
    "particular: crosses with a layer of another capability", lambda _: True, "s", "particular",
    {"color": "none", "mec": "#de8f05", "mew": 1.1, "ms": 4.5},
)  # fmt: skip
_SHADES = 10.0


@with_style
def layers_by_capability(answer: Answer, width: float = FULL_WIDTH) -> Figure:
    """The strip of a run's first screen, from ``first_screen``: a panel per capability."""
    layers = [column.layer for column in answer.columns]
    panels = strips([_strip(block, layers) for block in answer.blocks], width, left=1.05,
                    least=width)  # fmt: skip
    panels.over_layers(layers, cells=True)
    return panels.finish(f"What is lost by {answer.change}, by capability", "layer", bar=LOST)


def _strip(block: CapabilityBlock, layers: list[int]) -> Strip:
    """A capability's rows: one for each way of scoring, those without signal hatched."""
    values = np.full((len(block.bands), len(layers)), np.nan)
    tooltips = []
    for row, band in enumerate(block.bands):
        for layer, cell in band.cells.items():
            values[row, layers.index(layer)] = (cell.shade or 0) / _SHADES
            tooltips.append((row, layers.index(layer), cell.words, ""))
    lit = range(block.n_with_signal)
    needed, particular = (
        tuple((row, layers.index(layer)) for row in rows for layer in sorted(which))
        for rows, which in ((lit[:1], block.needed), (lit, block.particular))
    )
    tasks = ", ".join(block.tasks) if len(block.tasks) < 3 else count_noun(len(block.tasks), "task")
    return Strip(
        [f"{block.capability} ({tasks})"],
        [band.words for band in block.bands],
        Cells(values, tuple(tooltips), ((_PARTICULAR, particular), (_NEEDED, needed))),
        [row for row, band in enumerate(block.bands) if band.silent],
    )
