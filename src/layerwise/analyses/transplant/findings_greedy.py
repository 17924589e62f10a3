"""A sentence on layers that were chosen one after the other: what they move on held-out items."""

from __future__ import annotations

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.over_run import LEVEL, after_holm, n_tests
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import interval, number, p_value
from layerwise.stats.interest import Interest
from layerwise.storage.run_tables import RunTables

from .names import BRINGS
from .naming import counted_noun, order_of
from .words import models_of

KIND, GREEDY = "transplant", "transplant_greedy"
_MOST = 2


def greedy_findings(run: RunTables) -> list[Claim]:
    """What is brought by all steps of each search, where that is established on held-out items."""
    every = run.table(GREEDY)
    if every is None or every.empty:
        return []
    smallest, found = Interest.of(run.facts.settings).loss, []
    for _, cell in rows(every, direction=BRINGS).groupby(["task", "protocol"], sort=True):
        sure = cell.loc[(numbers(cell, "p_run") < LEVEL) & (numbers(cell, "moved") >= smallest)]
        if sure.empty:
            continue
        top = max(records(sure), key=lambda row: row["moved"] - 1e-9 * row["step"])
        better, worse = models_of(run, top)
        moved, together = (
            interval(*(100 * top[name] for name in names))
            for names in (("moved", "run_low", "run_high"), ("share", "share_low", "share_high"))
        )
        several = top["step"] > 1
        what = f"{counted_noun(top['site'], top['step'])} {order_of(top)}"
        sentence = (
            f"Of {better}, {what}{', chosen in this order' if several else ''}, put into {worse}, "
            f"{'bring' if several else 'brings'} {moved} points ({together} % of the lead) in "
            f"{top['task']} ({top['protocol']}) on n = {top['n_items']} items that did not choose "
            f"{'them' if several else 'it'} ({number(100 * top['moved_selection'])} points on the "
            f"{top['n_selection']} that did; {p_value(top['p_run'])} "
            f"{after_holm(n_tests(every))}); other items to choose by may give another order."
        )
        about = {name: str(top[name]) for name in ("task", "protocol", "host")}
        at = source(GREEDY, about, step=int(top["step"]))
        found.append(finding(sentence, weight(0.6, top["share"]), KIND, at))
    return spaced(found, _MOST)
