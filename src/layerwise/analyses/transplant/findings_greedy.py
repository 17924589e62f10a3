"""Claims on layers that were chosen one after the other: what they move on held-out items."""

from __future__ import annotations

from layerwise.presentation.claim import Claim, source, spaced, weight
from layerwise.presentation.over_run import LEVEL
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import number, percent
from layerwise.stats.interest import Interest
from layerwise.storage.run_tables import RunTables

from .names import BRINGS
from .naming import counted_noun, order_of
from .words import measured, named_models, put_in

GREEDY = "transplant_greedy"
_MOST = 2


def greedy_findings(run: RunTables) -> list[Claim]:
    """What is brought by all steps of each search, where that is established on held-out items."""
    every = run.table(GREEDY)
    if every is None or every.empty:
        return []
    smallest, claims = Interest.of(run.facts.settings).loss, []
    for _, cell in rows(every, direction=BRINGS).groupby(["task", "protocol"], sort=True):
        sure = cell.loc[(numbers(cell, "p_run") < LEVEL) & (numbers(cell, "moved") >= smallest)]
        if sure.empty:
            continue
        top = max(records(sure), key=lambda row: row["moved"] - 1e-9 * row["step"])
        share = percent(*(top[name] for name in ("share", "share_low", "share_high")))
        several = top["step"] > 1
        order = order_of(top)
        what = f"{counted_noun(top['site'], top['step'])} {order}"
        about = {name: str(top[name]) for name in ("task", "protocol", "host")}
        fields = measured(top, every)
        fields["items"] += f" that did not choose {'them' if several else 'it'}"
        claims.append(
            Claim(
                short=put_in(what, top, is_plural=several),
                importance=weight(0.6, top["share"]),
                source=source(GREEDY, about, step=int(top["step"])),
                details=(
                    *((f"They were chosen in this order: {order}.",) if several else ()),
                    f"That is {share} of the lead.",
                    f"On the {top['n_selection']} items to choose by, it is "
                    f"{number(100 * top['moved_selection'])} points.",
                    *named_models(run),
                ),
                caveat="Other items to choose by may give another order.",
                **fields,
            )
        )
    return spaced(claims, _MOST)
