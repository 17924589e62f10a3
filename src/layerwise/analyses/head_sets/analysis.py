"""Sets of heads: sentences, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis
from layerwise.presentation.claim import IN_TABLE, Claim, Estimate, most_important, source, weight
from layerwise.presentation.columns import as_text
from layerwise.presentation.rows import claim_scope, numbers, records
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_noun, count_range, protocol_phrase
from layerwise.storage.run_tables import RunTables

from .result import LOSSES, RANKED, HeadSetsResult
from .tables import CHOSEN

KIND = "set of heads"
_WORDS = (
    "A few heads were chosen by a score and removed at once. What that costs stands beside random "
    "sets with as many heads in each layer: many heads together cost something whichever they are. "
    "No item that chose heads tests them."
)
_HEADS = {
    "copying": "that copy the answer", "cost": "that seem to bring most",
    "induction": "that are induction heads",
}  # fmt: skip


def findings(run: RunTables) -> list[Claim]:
    """Claims on the cost of the chosen heads beyond random sets, where it is significant."""
    losses = run.table("head_set_losses")
    if losses is None or losses.empty:
        return []
    chosen = losses.loc[losses["set"] == CHOSEN]
    n_tests = int(chosen["p_holm"].notna().sum())
    claims = []
    for row in records(chosen.loc[numbers(chosen, "p_holm") < 0.05]):
        more, low, high = (100 * float(row[name]) for name in ("more", "more_low", "more_high"))
        side = "more" if more > 0 else "less"
        where: dict[str, str | None] = {name: str(row[name]) for name in ("by", "task", "protocol")}
        where["ranked_on"] = None if pd.isna(row["ranked_on"]) else str(row["ranked_on"])
        heads = _HEADS.get(str(row["by"]), f"by {row['by']}")
        claims.append(Claim(
            kind=KIND, evidence=IN_TABLE, importance=weight(0.5, min(1.0, abs(more) / 100)),
            short=f"In {row['task']}, the heads {heads} cost {side} than random heads of the same "
            f"layers, {protocol_phrase(row['protocol'])}.",
            details=(
                f"Of {count_noun(int(row['n_random']), 'random set')} {int(row['n_worse'])} cost "
                "as much or more.",
            ),
            estimate=Estimate(more, low, high, "% of the score beyond the mean of random sets"),
            p=float(row["p_holm"]),
            test=f"t-test over items, Holm over {count_noun(n_tests, 'set and task')}",
            caveat="The random sets are taken as they are: it is a test over items.",
            source=source("head_set_losses", where, set=CHOSEN),
            **claim_scope(pd.DataFrame([row]), "held-out item"),
        ))  # fmt: skip
    return most_important(claims, 2)


def sections(run: RunTables) -> list[Section]:
    """The cost of each set, in a figure and in numbers, and the heads that were chosen."""
    from .figures import set_losses

    losses, ranked = run.table("head_set_losses"), run.table("ranked_heads")
    if losses is None or ranked is None or losses.empty:
        return []
    figures = []
    if np.isfinite(numbers(losses, "share_lost")).any():
        caption = (
            "Share of the accuracy above the floor that is lost without a set of heads (n = "
            f"{count_range(losses['n_items'], 'held-out item')} a task). Circles: the chosen "
            "heads, with 95 % intervals over items, filled where they differ from the mean of the "
            "random sets (Holm). Strokes: random sets with as many heads in each layer."
        )
        alt = "Points with intervals, and strokes: losses without chosen and random sets of heads."
        figures.append(FigureSpec("head_sets", partial(set_losses, losses), caption, alt))
    chosen = ranked.loc[ranked["chosen"]].sort_values(by="score", ascending=False, kind="stable")
    of_chosen = losses.loc[losses["set"] == CHOSEN]
    tables = (
        as_text("Sets of heads ({n})", LOSSES, of_chosen, collapsed=False),
        as_text("Chosen heads ({n})", RANKED, chosen, most=200),
    )
    return [
        Section("head-sets", "Sets of heads", 56, _WORDS, tuple(figures), tables, kinds=(KIND,))
    ]


ANALYSIS = Analysis(
    "head_sets", HeadSetsResult, sections, findings,
    done={
        "head_set_losses": "Small sets of heads were removed, beside random sets of equal size.",
    },
)  # fmt: skip
