"""Figures of ``path_patching``, drawn from its saved tables alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.patching.figures import verb
from layerwise.presentation.charts.heat import DIVERGING, colour_limit, head_maps
from layerwise.presentation.charts.panels import Bar
from layerwise.presentation.rows import by_task, parts, records
from layerwise.presentation.section import bounds
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import spread

# The letter of a head's column, by its site.
_GROUPS = {"z": "", "cross_z": "c", "mlp_out": "MLP"}


@with_style
def path_senders(effects: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Effect of each sender on a receiver, a panel per task and receiver.

    Layers by heads, in an encoder-decoder also by heads of cross-attention (``c0``, ``c1``), with a
    last column for the MLPs; embeddings are in the table only. Dots mark what is significant after
    Benjamini and Hochberg's correction. Grey: not heard, or not there.

    ``effects`` is the table ``path_effects`` of one direction.
    """
    shown = pd.DataFrame(effects.loc[effects["layer"] >= 0])
    columns = [
        (_GROUPS[row["site"]], -1 if pd.isna(row["head"]) else int(row["head"]))
        for row in records(shown)
    ]
    shown = shown.assign(column=columns)
    groups = list(_GROUPS.values())
    named = [
        ([f"{task}, n = {spread(of_task['n_items'])}", f"to {to}"], part)
        for task, of_task in by_task(shown)
        for (to,), part in parts(of_task, receiver=("logits",))
    ]
    limit, what = colour_limit(shown, "recovered"), verb(str(shown["direction"].iloc[0]))
    return head_maps(
        named,
        "recovered",
        Bar(DIVERGING, -limit, limit, f"share of the logit difference {what}"),
        "Direct paths from heads and MLPs",
        width,
        columns=sorted({*columns, ("MLP", -1)}, key=lambda row: (groups.index(row[0]), row[1])),
        mark="significant (FDR 5 %)",
        tell=lambda row: f"{bounds(row, 'recovered', 'recovered_low', 'recovered_high', 100)} %",
    )
