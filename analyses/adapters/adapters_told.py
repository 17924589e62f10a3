"""What the saved tables of this study say, as the sentences of its README.

A test holds the README to these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from seeds_told import held_again, kept_again, learned_again

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, joined, p_value, ranges

SAID, BASE, AFTER = "generate", "base", "adapted"
CHAIN, TWO = "sum-chain", "arithmetic"
HALF, ALPHA = 0.5, 0.05
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the README."""
    once = [sentence for tell in TOLD for sentence in tell(tables)]
    return [*once, *(sentence for tell in AGAIN for sentence in tell(tables, AFTER))]


def learned(tables: Tables) -> Iterator[str]:
    """What the adapters brought on the suite that they were trained for."""
    (told,) = rows(tables["gains"], case=AFTER).to_dict("records")
    sure = "an established gain" if told["improved"] else "no established gain"
    yield (
        f"**Of {told['n_items']} held-out chains of sums {100 * told['acc_student']:.0f} % are "
        f"right under `{SAID}` before and {100 * told['acc_distilled']:.0f} % after: "
        f"{interval(*(100 * told[name] for name in ('gain', 'gain_low', 'gain_high')))} points, "
        f"{told['n_gained']} items won and {told['n_lost']} lost ({p_value(told['p_holm'])}, exact "
        f"McNemar), {sure}.**"
    )


def earned(tables: Tables) -> Iterator[str]:
    """Whether other layers do it, or those that did its like before."""
    before, after = needed_layers(tables, BASE, TWO), needed_layers(tables, AFTER, CHAIN)
    if not after:
        yield "**No layer is established to be needed for chains of sums: nothing can be placed.**"
        return
    new, alone = [one for one in after if one not in before], carriers(tables)
    where = (
        f"in layers that the base needs for sums of two numbers already, and in {len(new)} others "
        f"for which that is not established (layers {ranges(new)}), too"
        if new
        else "in layers that the base needs for sums of two numbers already, and in no others"
    )
    (told,) = rows(tables["gains"], case=AFTER).to_dict("records")
    silent = "The base has no signal on chains, so they had no place before. "
    yield (
        f"**{silent * (not told['signal_student'])}After training they are done {where}; a single "
        f"adapted layer carries the gain (brings it, and its return destroys it) in {len(alone)} "
        f"of 30 layers{_listed(alone)}.**"
    )


def kept(tables: Tables) -> Iterator[str]:
    """What became of all else, each with its interval."""
    told = rows(tables["differences"], case=AFTER, family="accuracy")
    for row in told.to_dict("records"):
        values = (100 * row[name] for name in ("difference", "low", "high"))
        yield (
            f"{row['capability'].capitalize()} (`{row['tasks']}`, {row['n_items']} items) under "
            f"`{row['protocol']}`: {100 * row['estimate_first']:.0f} % before, "
            f"{100 * row['estimate_second']:.0f} % after, {interval(*values)} points "
            f"({p_value(row['p_holm'])} after Holm's correction)."
        )
    silent = rows(tables["signal"], case=BASE, signal=False)
    names = [f"`{row['task']}` under `{row['protocol']}`" for row in silent.to_dict("records")]
    yield f"Without signal in the base, and not told where there is none after: {joined(names)}."


def needed(tables: Tables) -> Iterator[str]:
    """The layers that are needed before and after."""
    for case, task, words in (
        (BASE, TWO, "The base needs for sums of two numbers"),
        (AFTER, TWO, "The adapted model needs for them"),
        (AFTER, CHAIN, "The adapted model needs for chains of sums"),
    ):
        told = rows(tables["layers"], case=case, task=task, protocol=SAID)
        sure = needed_layers(tables, case, task)
        most = told.loc[told["share_lost"].idxmax()] if len(told) else None
        largest = "" if most is None or not sure else (
            f"; most is lost without layer {most['layer']}, "
            f"{interval(*(100 * most[n] for n in ('share_lost', 'share_low', 'share_high')))} %"
        )  # fmt: skip
        yield (
            f"{words} {len(sure)} layers under `{SAID}`, each significantly"
            f"{_listed(sure)}{largest}{'' if told['signal'].all() else ' (it has no signal)'}."
        )


def read(tables: Tables) -> Iterator[str]:
    """From which layer on the lens reads the answer, and the last position holds it."""
    for what, column, name in (
        ("its first token on top of the logit lens for half of the items", "on_top", "lens"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching"),
    ):  # fmt: skip
        said = [
            f"{words} {_first(rows(tables[name], case=case, task=task), column)}"
            for case, task, words in (
                (BASE, TWO, "two numbers, before"), (AFTER, TWO, "after"), (AFTER, CHAIN, "chains")
            )
        ]  # fmt: skip
        yield f"The first layer with the answer {what}: {', '.join(said)}."


def moved(tables: Tables) -> Iterator[str]:
    """What adapted layers bring to the base, and what their return destroys."""
    every = rows(tables["transplant"], case=AFTER, task=CHAIN)
    if every.empty:
        yield "There is no gap on chains that a transplant could move."
        return
    alone = rows(every, set="single")
    for way, words in (
        ("brings", "The adapted layer that brings most of the gain to the base by itself"),
        ("destroys", "The layer whose return to the base's weights destroys most of it"),
    ):
        told = rows(alone, direction=way)
        row = told.loc[told["share"].idxmax()]
        bounds = (100 * row[name] for name in ("share", "share_low", "share_high"))
        sure = told.loc[(told["p_run"] < ALPHA) & (told["moved"] > 0), "layer"]
        yield (
            f"{words} is layer {row['layer']}: {interval(*bounds)} % "
            f"({p_value(row['p_run'])} over the run); {len(sure)} single layers do so "
            f"significantly{_listed(sure)}."
        )
    for row in rows(tables["transplant_ranks"], case=AFTER, task=CHAIN).to_dict("records"):
        bounds = (row[name] for name in ("rho", "rho_low", "rho_high"))
        yield (
            f"Layers whose weights moved more {VERBS[row['direction']]} more: rank correlation "
            f"{interval(*bounds, digits=2)} over {row['n_layers']} layers."
        )


def depths(tables: Tables) -> Iterator[str]:
    """What the comparison establishes of depths."""
    told = rows(tables["differences"], case=AFTER, family="depth", axis="computation")
    said = [
        f"{row['measure']} of {row['capability']} by {row['method']} under `{row['protocol']}` "
        f"{interval(row['difference'], row['low'], row['high'], 2)}"
        f"{' (established)' if row['significant'] else ''}"
        for row in told.to_dict("records")
    ]
    yield f"Relative depths after minus before, where both have one: {joined(said) or 'none'}."


def in_readme(text: str, tables: Tables) -> str:
    """The README with its findings made anew, between its two marks."""
    before, rest = text.split(BEGIN)
    listed = "\n".join(f"- {sentence}" for sentence in findings(tables))
    return f"{before}{BEGIN}\n{listed}\n{END}{rest.split(END)[1]}"


def needed_layers(tables: Tables, case: str, task: str) -> list[int]:
    """The layers without which a suite loses significantly under ``generate``."""
    told = rows(tables["layers"], case=case, task=task, protocol=SAID, significant=True)
    return sorted(int(layer) for layer in told.loc[told["share_lost"] > 0, "layer"])


def carriers(tables: Tables) -> list[int]:
    """Single adapted layers that bring the gain, and whose return destroys it."""
    alone = rows(tables["transplant"], case=AFTER, task=CHAIN, set="single")
    sure = alone[(alone["p_run"] < ALPHA) & (alone["moved"] > 0)]
    ways = [set(rows(sure, direction=way)["layer"]) for way in VERBS]
    return sorted(int(layer) for layer in ways[0] & ways[1])


def _listed(layers: Iterable[int]) -> str:
    """A colon and the layers, or nothing."""
    every = sorted(layers)
    return f": {ranges(every)}" if every else ""


def _first(one: pd.DataFrame, column: str) -> str:
    enough = one.sort_values("layer")
    enough = enough.loc[enough[column] >= HALF, "layer"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


VERBS = {"brings": "bring", "destroys": "destroy"}
TOLD = (learned, earned, kept, needed, read, moved, depths)
AGAIN = (held_again, learned_again, kept_again)
