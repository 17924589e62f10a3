"""Sentences on the model without layers that was healed, from the saved tables.

A test compares the pages with these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from adapter_sentences import significant
from seed_sentences import agreement_of_trainings, further_learning

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, join_words, number, p_value, ranges

CASE, BASE, SWEPT, SAID = "healed", "base", "arithmetic", "generate"
BEGIN, END = "<!-- findings on healing, made by run.py -->", "<!-- end of these findings -->"
OPENING = "<!-- opening on healing, made by run.py -->", "<!-- end of this opening -->"
ALPHA = 0.05
Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the page; none where the case was not run."""
    if rows(tables["gains"], case=CASE).empty:
        return []
    once = [sentence for tell in TOLD for sentence in tell(tables)]
    return [*once, *(sentence for tell in AGAIN for sentence in tell(tables, CASE))]


def summary_sentences(tables: Tables) -> Iterator[str]:
    """Established results, in short: in how many trainings what was lost comes back."""
    every, again = rows(tables["gains"], case=CASE), rows(tables["further_gains"], case=CASE)
    lost = every[every["leads"]]
    yield (
        f"Without its six layers of least influence, the model loses in {len(lost)} of "
        f"{len(every)} suites."
    )
    keys = ["task", "protocol"]
    both = lost.merge(again[[*keys, "improved"]], on=keys, suffixes=("", "_again"))
    sure = both[both["improved"] & both["improved_again"]]
    yield f"Healing brings back a part in {len(sure)} of these, in both trainings."


def verdict(tables: Tables) -> Iterator[str]:
    """Losses, what of them came back, and what did not."""
    every = rows(tables["gains"], case=CASE)
    lost = every[every["leads"]]
    more = (lost["p_holm"] < ALPHA) & (lost["gain"] > 0)
    guessed = more & ~lost["improved"]
    yield (
        f"**Of {len(every)} suites under a protocol, {len(lost)} lose significantly by the six "
        f"layers. Of these, significantly better after healing (first seed): "
        f"{_names(lost[lost['improved']])}; more right answers, but no more than guessing may "
        f"account for: {_names(lost[guessed])}. Not established that anything comes back: "
        f"{_names(lost[~more])}.**"
    )


def _names(table: pd.DataFrame) -> str:
    named = join_words([_task_and_protocol(row) for row in table.to_dict("records")])
    return f"{len(table)} ({named})" if named else "none"


def recovery_sentences(tables: Tables) -> Iterator[str]:
    """Each suite under each protocol: whole, without the layers, healed."""
    for row in rows(tables["gains"], case=CASE).to_dict("records"):
        lead, gain, closed = (_bounds(row, name) for name in ("lead", "gain", "closed"))
        accuracies = [number(100 * row[f"acc_{host}"]) for host in HOSTS]
        share = f", {closed} % of the loss" if row["leads"] else ""
        silent = [word for host, word in HOSTS.items() if not row[f"signal_{host}"]]
        without = f" No signal {join_words(silent)}." if silent else ""
        yield (
            f"{row['capability'].capitalize()} ({_task_and_protocol(row)}, "
            f"{row['n_items']} items): "
            f"{join_words(accuracies)} % right whole, without the layers and healed; "
            f"{lead} points lost ({p_value(row['lead_p_holm'])}), {gain} come back "
            f"({p_value(row['p_holm'])}){share}.{without}"
        )


def course(tables: Tables) -> Iterator[str]:
    """Distance of the healed model from the whole one on held-out prompts, on the way."""
    read = rows(tables["curve"], case=CASE).dropna(subset=["held_out_kl"])
    points = read.set_index("step")["held_out_kl"]
    half = points.index[points.index <= points.index.max() / 2].max()
    told = [number(points[step], 3) for step in (0, half, points.index.max())]
    yield (
        "Divergence from the whole model on held-out answers, in nats a token, before healing, "
        f"after {half} steps and after {points.index.max()}: {join_words(told)}."
    )


def needed_layer_sentences(tables: Tables) -> Iterator[str]:
    """The layers that sums of two numbers need, before and after, by number in the whole model."""
    sets = {}
    for case, words in ((BASE, "The whole model needs"), (CASE, "The healed model needs")):
        told = rows(tables["layers"], case=case, task=SWEPT, protocol=SAID)
        sure = told[told["significant"] & (told["share_lost"] > 0)]
        sets[case] = {int(layer) for layer in sure["original"]}
        yield f"{words} for sums of two numbers {significant(told, 'original')}."
    if sets[CASE]:
        new = sorted(sets[CASE] - sets[BASE])
        yield (
            f"Of the layers that the healed model needs for them, {len(new)} are not shown to be "
            f"needed by the whole one{': ' + ranges(new) if new else ''}."
        )


def transplant_sentences(tables: Tables) -> Iterator[str]:
    """Healed layers that bring what came back, and whose return destroys it."""
    every = rows(tables["transplant"], case=CASE, task=SWEPT, set="single")
    if every.empty:
        gap = rows(tables["transplant_gaps"], case=CASE, task=SWEPT, protocol=SAID).iloc[0]
        yield (
            f"On the {gap['n_items']} sums of two numbers on which layers are exchanged the gain "
            f"is not established ({p_value(gap['p_holm'])}), so that nothing is said of which "
            "layers carry it."
        )
        return
    for way, words in WAYS.items():
        told = rows(every, direction=way)
        row = told.loc[told["share"].idxmax()]
        sure = told[(told["p_run"] < ALPHA) & (told["moved"] > 0)]
        yield (
            f"{words} is layer {row['original']}: {_bounds(row, 'share')} % of the gain on sums of "
            f"two numbers ({p_value(row['p_run'])} over the run); {len(sure)} single layers do so "
            f"significantly{_colon_and_layers(sure['original'])}."
        )


def in_readme(text: str, tables: Tables) -> str:
    """A page of the study with what it has of opening and findings made anew."""
    told = findings(tables)
    if not told:
        return text
    for (begin, end), found in ((OPENING, summary_sentences(tables)), ((BEGIN, END), told)):
        if begin not in text:
            continue
        before, rest = text.split(begin)
        listed = "\n".join(f"- {sentence}" for sentence in found)
        text = f"{before}{begin}\n{listed}\n{end}{rest.split(end)[1]}"
    return text


def _task_and_protocol(row: Mapping[str, object]) -> str:
    return f"`{row['task']}` under `{row['protocol']}`"


def _bounds(row: Mapping[str, float] | pd.Series, name: str) -> str:
    return interval(*(100 * float(row[end]) for end in (name, f"{name}_low", f"{name}_high")))


def _colon_and_layers(layers: Iterable[int]) -> str:
    every = sorted(map(int, layers))
    return f": {ranges(every)}" if every else ""


HOSTS = {
    "teacher": "in the whole model", "student": "without the layers", "distilled": "after healing",
}  # fmt: skip
WAYS = {
    "brings": "The healed layer that brings most by itself to the model without the layers",
    "destroys": "The layer whose return to what it was before healing destroys most",
}
TOLD = (verdict, recovery_sentences, course, needed_layer_sentences, transplant_sentences)
AGAIN = (agreement_of_trainings, further_learning)
