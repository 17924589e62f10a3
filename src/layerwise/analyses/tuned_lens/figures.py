"""Figures of ``tuned_lens``, drawn from its saved tables alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.shared.lens_names import TUNED_DECODER_LENS, UNTRANSLATED
from layerwise.presentation.charts.lines import Words, draw_series, series
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.layer_axis import layer_ticks
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, look, plain_log_scale, with_style
from layerwise.presentation.wording import count_range, in_order, number

_STACKS = {TUNED_DECODER_LENS: "encoder", "tuned": "decoder"}


@with_style
def tuned_lens_curves(layers: pd.DataFrame, width: float = COLUMN_WIDTH) -> Figure:
    """KL divergence from the final distribution with trained translators and without.

    Means over held-out texts with bootstrap intervals, on a logarithmic scale; of an encoder-
    decoder a panel for each stack. Filled markers of the tuned lens: significantly lower.

    ``layers`` is the table ``tuned_lens_layers``.
    """
    lenses = in_order(layers["lens"], tuple(UNTRANSLATED))
    several = len(lenses) > 1
    titles = [[f"{_STACKS[lens]}: {UNTRANSLATED[lens]} and {lens} lens"] if several else []
              for lens in lenses]  # fmt: skip
    names = ("no translator", "tuned") if several else ("logit lens", "tuned lens")
    panels = Panels(titles, width, (1.2,), least=2.6, most=3.0 if several else 4.6, share="y")
    words = Words("filled: lower (Holm)", interval="95 % interval over texts")
    for axes, lens in zip(panels.flat, lenses, strict=True):
        of_lens = rows(layers, lens=lens).sort_values(by="layer").assign(higher=False)
        # Layers of a stack are numbered from what enters the first, which is -1.
        of_lens = of_lens.assign(depth=of_lens["layer"] - of_lens["layer"].min() - 1)
        draw_series(axes, [
            series(of_lens, column, look(i), column, x="depth", unit=" nats", label=names[i],
                   ends=(f"{column}_low", f"{column}_high"), sure=sure)
            for i, (column, sure) in enumerate((("kl_logit", "higher"), ("kl_tuned", "lower")))
        ], words)  # fmt: skip
        ticks = layer_ticks(map(int, of_lens["depth"]), panels.room, 0.26)
        axes.set_xticks(ticks, [number(float(tick)) for tick in ticks])
    plain_log_scale(panels.flat[0])
    texts = f"n = {count_range(layers['n_texts'], 'held-out text')}"
    title = f"Tuned lens, {layers['kind'].iloc[0]} ({texts})"
    return panels.finish(title, "layer (−1: embedding)", ["KL to final (nats)"])
