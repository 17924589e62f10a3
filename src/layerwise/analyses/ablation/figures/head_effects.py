"""Ablation of single heads: layers by heads, a panel per task, colour for the accuracy lost.

It reads an effects table only; none is made here.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.grid import set_title
from layerwise.presentation.head_maps import scale_of, task_head_maps
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import HEAD_WORDS, capitalised, doing


@styled
def head_effect_maps(
    effects: pd.DataFrame,
    protocol: str | None = None,
    kind: str | None = None,
    site: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """What each task with signal loses without one head, or one key/value group.

    Args:
        effects: the rows of ``effects.parquet`` that name a head, one of them with signal.
        protocol: the protocol shown; the first with signal if None.
        kind: the kind of intervention shown; the first if None.
        site: ``z`` or ``kv_group``; the first if None.
        width: the widest the figure may be, inches.

    Returns:
        Colours run about 0, to the largest share of the above-floor accuracy that is lost or
        gained; dots mark what is significant after Benjamini and Hochberg's correction.
    """
    shown = rows(effects, signal=True)
    for name, wanted in (("kind", kind), ("site", site), ("protocol", protocol)):
        shown = rows(shown, **{name: wanted or str(shown[name].iloc[0])})
    first = shown.iloc[0]
    gap = " " if width > 5 else "\n"
    unit = f"share of above-floor accuracy lost{gap}(below 0: gained)"
    heads = HEAD_WORDS[str(first["site"])]
    figure = task_head_maps(shown, "share_lost", scale_of(shown, "share_lost"), unit, width, heads)
    action = capitalised(doing(str(first["kind"]), str(first["site"]), f"one {heads}"))
    set_title(figure, f"{action}: accuracy lost, {label(str(first['protocol']))} protocol "
              "(dots: significant after Benjamini-Hochberg)")  # fmt: skip
    return figure
