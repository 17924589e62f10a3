"""The share of the gap that moves with single heads or key/value groups: layers by heads."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.errors import UserError
from layerwise.presentation.grid import set_title
from layerwise.presentation.head_maps import scale_of, task_head_maps
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import HEAD_WORDS

from ..names import WEIGHTS

_TITLES = {
    "brings": "One {} of the better model put into the other",
    "destroys": "One {} of the other model put into the better one",
}


@styled
def moved_by_head(
    effects: pd.DataFrame,
    direction: str = "brings",
    protocol: str | None = None,
    width: float = FULL_WIDTH,
    exchange: str | None = None,
) -> Figure:
    """The share of the gap between two models that moves with a head, or a key/value group.

    Args:
        effects: ``transplant_effects.parquet`` of single heads.
        direction: ``brings`` or ``destroys``.
        protocol: the protocol shown; the first with a gap if None.
        width: the widest the figure may be, inches.
        exchange: ``weights`` or ``activations``; the first that was exchanged if None.

    Returns:
        A panel of layers by heads for each task. Colours run about 0; dots mark what is
        significant after Holm's correction over the heads of a panel.

    Raises:
        UserError: if no head was exchanged alone.
    """
    shown = rows(effects, set="single", t=1.0, signal=True, direction=direction)
    if shown.empty:
        raise UserError(
            "No head was exchanged alone, and sets of heads have no place in a map of layers by "
            "heads; expected a run with sets='single', or read effects()."
        )
    shown = rows(shown, exchange=exchange or str(shown["exchange"].iloc[0]))
    shown = rows(shown, protocol=protocol or str(shown["protocol"].iloc[0]))
    noun = HEAD_WORDS[str(shown["site"].iloc[0])]
    gap = " " if width > 5 else "\n"
    unit = f"share of the gap that moves{gap}(below 0: the gap grows)"
    figure = task_head_maps(shown, "share", scale_of(shown, "share"), unit, width, noun)
    what = noun if str(shown["exchange"].iloc[0]) == WEIGHTS else f"{noun}'s output"
    title = _TITLES[direction].format(what)
    set_title(figure, f"{title}, {label(str(shown['protocol'].iloc[0]))} protocol "
              "(dots: significant after Holm)")  # fmt: skip
    return figure
