"""The parts of a page on the logit lens, and on how deep answers settle by it.

The figures are drawn elsewhere; here they get their names, captions and alternative texts.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import pandas as pd

from layerwise.presentation.claim import LENS
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.gates import gate_tables
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table, bounds
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalised,
    counted,
    in_order,
    number,
    spread_of,
)
from layerwise.storage.run_tables import RunTables

from .names import DECODER_LENS, LENS_ORDER, LOGIT, TUNED_DECODER_LENS

_LENS_WORDS = (
    "What the model would answer if each layer were its last (final norm and unembedding applied "
    "to the residual stream)."
)
_RIGHT = "the answer's first token on top of the whole vocabulary behind the last layer"
_SETTLED_WORDS = (
    "How deep answers settle: of each item answered right, the first layer after which its answer "
    "is the lens's most likely token and stays that to the end. What stands there was written by "
    "the layers before; what they needed for it, a lens does not say."
)
# What is to be known of a lens of the encoder, whose layers the decoder stands behind.
_OF_ENCODER = {
    DECODER_LENS: " It is the exact run of a model whose encoder ends behind each layer.",
    TUNED_DECODER_LENS: (
        " It is a probe: the whole decoder reads what a trained translator makes of the stream "
        "behind each encoder layer."
    ),
}


def lenses(run: RunTables) -> list[FigureSpec]:
    """Lens curves, a figure for each lens, site and protocol's prompts."""
    from .figures import lens_curves

    lens = run.table("lens")
    if lens is None:
        return []
    found = []
    table = rows(lens, over="prompt", pos=-1)
    for lens, site, protocol in _curves_of(table):
        mine = rows(table, lens=lens, site=site, protocol=protocol)
        after = {"resid_pre": "before each layer", "resid_mid": "after each layer's attention"}
        where = after.get(site, "after each layer")
        caption = (
            f"{capitalised(lens)} lens on {protocol} prompts: log-probability and median rank of "
            f"the answer's first token, entropy of the lens's distribution and its divergence from "
            f"the final one, {where} (n = {counted(len(set(mine['item'])), 'item')} in all). "
            "Bands: 95 % intervals over items (bootstrap; for the median, exact order "
            "statistics). The embedding (layer −1) may lie beyond the scale."
            f"{_OF_ENCODER.get(lens, '')}"
        )
        alt = f"Line charts of what the {lens} lens reads {where}, {protocol} prompts."
        draw = partial(lens_curves, mine, protocol, seed=run.facts.seed)
        named = (lens.replace(" ", "_"), site)
        marks = [name for name in named if name not in (LOGIT, "resid_post")]
        found.append(FigureSpec("_".join(["lens", *marks, protocol]), draw, caption, alt))
    return found


def _curves_of(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    orders = {"lens": LENS_ORDER, "site": ("resid_post",), "protocol": PROTOCOL_ORDER}
    named = [in_order(table[name], order) for name, order in orders.items()]
    there = set(zip(*(table[name] for name in orders), strict=True))
    return [combination for combination in product(*named) if combination in there]


def settlings(run: RunTables) -> list[FigureSpec]:
    """From which depth on right answers stay on top of the lens."""
    from .figures import prediction_depth_curves

    prediction_depth = run.table("prediction_depth")
    prediction_depth_means = run.table("prediction_depth_means")
    depths, means = prediction_depth, prediction_depth_means
    if depths is None or means is None:
        return []
    caption = (
        "Prediction depth (after Baldock et al. 2021, with the lens as probe): the first layer "
        "from which on the answer stays the lens's most likely token. Steps: share of the items "
        "answered right that are settled by a depth, in tasks with signal. Points: mean depth "
        f"(n = {spread_of(means['n_items'], 'item')}), mean over tasks, with 95 % "
        "intervals over items, those of the table of depths."
    )
    alt = "Cumulative shares of answers settled by depth, one line per capability."
    return [FigureSpec("prediction_depth", partial(prediction_depth_curves, depths, means),
                    caption, alt)]  # fmt: skip


def settling_tables(run: RunTables) -> list[Table]:
    """Tests of prediction depth between capabilities."""
    prediction_depth_comparisons = run.table("prediction_depth_comparisons")
    if prediction_depth_comparisons is None:
        return []
    columns = (
        "lens", "protocol", "first", "second", "n", "depth of second minus first",
        "an item of second settles later (%)", "p (Holm)", "significant",
    )  # fmt: skip
    cells = [
        [
            row["lens"], row["protocol"], row["first"], row["second"],
            f"{row['n_first']}, {row['n_second']}", bounds(row, "difference", "low", "high", 1, 2),
            number(100 * row["later"]), f"{row['p_holm']:.3g}",
            "yes" if row["significant"] else "no",
        ]
        for row in records(prediction_depth_comparisons)
    ]  # fmt: skip
    return [Table(f"Prediction depth, capabilities compared ({len(cells)})", columns, cells, True)]


def sections(run: RunTables) -> list[Section]:
    """Lens curves, and prediction depth."""
    return [
        Section("lens", "Logit lens", 30, _LENS_WORDS, tuple(lenses(run)),
                tuple(gate_tables(run, "lens_gate", _RIGHT, "without the question (%)")),
                kinds=(LENS,)),
        Section("settled", "Prediction depth", 34, _SETTLED_WORDS,
                tuple(settlings(run)), tuple(settling_tables(run))),
    ]  # fmt: skip
