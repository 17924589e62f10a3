"""The picture of early exits, from their table alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.analyses.shared.lens_names import OF_ENCODER
from layerwise.presentation.charts.heat import (
    LOSS,
    LOST,
    Mark,
    Row,
    is_significant,
    loss_strips,
    share_lost_tooltip,
)
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import layers_in
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import PROTOCOL_ORDER, protocol_words

from .tables import exit_name

_MARKS = (
    Mark(LOSS, is_significant()),
    Mark(
        "safe: less is lost than is of interest, here and later", lambda row: bool(row["safe"]),
        "s", "safe", {"color": "black", "mec": "white"},
    ),
)  # fmt: skip


def _tell(row: Row) -> str:
    return (
        f"{protocol_words(row['protocol'])}, exit after {exit_name(row)}: {share_lost_tooltip(row)}"
    )


@with_style
def exit_strips(exits: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Cost of stopping after each layer: a panel per task, a row per protocol.

    Colour is the share lost of the accuracy above the floor, clipped to 0 to 1. A dot marks a
    significant loss, a square an exit that is safe; hatched rows have no signal.

    ``exits`` is the table ``early_exit_layers``.
    """
    start = stacks().n_encoder - 1  # what enters the decoder is not behind an encoder's layer
    if start >= 0:
        exits = pd.DataFrame(exits.loc[(exits["layer"] != start) | exits["lens"].isin(OF_ENCODER)])
    panels = loss_strips(
        exits, "protocol", PROTOCOL_ORDER, layers_in(exits), _MARKS, _tell, width, left=1.05,
        least=width,
    )  # fmt: skip
    title = "Early exit: accuracy lost by stopping after a layer, by task and way of scoring"
    return panels.finish(title, "exit after layer (−1: none)", bar=LOST)
