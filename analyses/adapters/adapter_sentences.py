"""Sentences of this study's pages, from its saved tables.

A test compares the pages with these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
from seed_sentences import (
    agreement_of_trainings,
    further_learning,
    further_side_effects,
    least_significant_loss,
    with_width,
)

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, join_words, number, p_value, ranges
from layerwise.stats.signals.power import least_change

SAID, BASE, AFTER = "generate", "base", "adapted"
CHAIN, TWO = "sum-chain", "arithmetic"
HALF, ALPHA = 0.5, 0.05
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
OPENING = "<!-- opening, made by run.py -->", "<!-- end of the opening -->"
Tables = Mapping[str, pd.DataFrame]


def summary_sentences(tables: Tables) -> Iterator[str]:
    """Established results, in short, and what is open."""
    (told,) = rows(tables["gains"], case=AFTER).to_dict("records")
    before, after = (number(100 * told[f"acc_{host}"]) for host in ("student", "distilled"))
    if told["improved"]:
        gain = interval(*(100 * told[name] for name in ("gain", "gain_low", "gain_high")))
        yield f"Adapters teach new chains of sums: {before} % are right before and {after} % after."
        yield f"That is {gain} points more, an established gain."
    again = rows(tables["further_gains"], case=AFTER)
    if again["improved"].all():
        yield f"It is a gain in {len(again) + 1} of {len(again) + 1} trainings."
    like, chains = needed_layers(tables, BASE, TWO), needed_layers(tables, AFTER, CHAIN)
    if set(like) <= set(chains):
        yield (
            f"Chains then need {len(chains)} layers. All {len(like)} that the base needs for sums "
            "of two numbers are among them."
        )
    kept = rows(tables["differences"], case=AFTER, family="accuracy")
    if not (kept["p_holm"] < ALPHA).any():
        yield f"No other suite is shown to change ({len(kept)} tests)."
    if not carriers(tables):
        yield "Which single layers carry the gain is open."


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the page."""
    once = [sentence for tell in TOLD for sentence in tell(tables)]
    return [*once, *(sentence for tell in AGAIN for sentence in tell(tables, AFTER))]


def learning_sentences(tables: Tables) -> Iterator[str]:
    """Gain that the adapters brought on the suite that they were trained for."""
    (told,) = rows(tables["gains"], case=AFTER).to_dict("records")
    sure = "an established gain" if told["improved"] else "no established gain"
    yield (
        f"**Of {told['n_items']} held-out chains of sums {100 * told['acc_student']:.0f} % are "
        f"right under `{SAID}` before and {100 * told['acc_distilled']:.0f} % after: "
        f"{interval(*(100 * told[name] for name in ('gain', 'gain_low', 'gain_high')))} points, "
        f"{told['n_gained']} items won and {told['n_lost']} lost ({p_value(told['p_holm'])}, exact "
        f"McNemar), {sure}.**"
    )


def new_layers_sentences(tables: Tables) -> Iterator[str]:
    """Verdict on whether other layers do it, or those that did its like before."""
    before, after = needed_layers(tables, BASE, TWO), needed_layers(tables, AFTER, CHAIN)
    if not after:
        yield "**No layer is established to be needed for chains of sums: nothing can be placed.**"
        return
    new = [one for one in after if one not in before]
    base = rows(tables["layers"], case=BASE, task=TWO, protocol=SAID)
    (told,) = rows(tables["gains"], case=AFTER).to_dict("records")
    silent = "The base has no signal on chains, so they had no place before. "
    others = (
        f", and {len(new)} others (layers {ranges(new)}), without which the base loses "
        f"{_share_range(rows(base, layer=new))} % of sums of two numbers, none of it "
        f"significantly: "
        f"whether the base needs them is open"
        if new
        else ", and no others"
    )
    yield (
        f"**{silent * (not told['signal_student'])}After training (one seed) {len(after)} layers "
        f"are significant for chains under `{SAID}`: {len(after) - len(new)} of the {len(before)} "
        f"that are so in the base for sums of two numbers{others}.**"
    )


def _share_range(table: pd.DataFrame) -> str:
    """The smallest and the largest share lost."""
    ends = (100 * table["share_lost"].min(), 100 * table["share_lost"].max())
    return " to ".join(number(end) for end in ends)


def side_effect_sentences(tables: Tables) -> Iterator[str]:
    """Changes of all other suites, each with its interval."""
    told = rows(tables["differences"], case=AFTER, family="accuracy")
    for row in told.to_dict("records"):
        values = (100 * each for each in with_width(row))
        yield (
            f"{row['capability'].capitalize()} (`{row['tasks']}`, {row['n_items']} items) under "
            f"`{row['protocol']}`: {100 * row['estimate_first']:.0f} % before, "
            f"{100 * row['estimate_second']:.0f} % after, {interval(*values)} points "
            f"({p_value(row['p_holm'])} after Holm's correction)."
        )
    yield f"{least_significant_loss(told)}."
    silent = rows(tables["signal"], case=BASE, signal=False)
    names = [f"`{row['task']}` under `{row['protocol']}`" for row in silent.to_dict("records")]
    yield (
        f"Without signal in the base, and not told where there is none after: {join_words(names)}."
    )


def needed_layer_sentences(tables: Tables) -> Iterator[str]:
    """The layers that are needed before and after."""
    for case, task, words in (
        (BASE, TWO, "The base needs for sums of two numbers"),
        (AFTER, TWO, "The adapted model needs for them"),
        (AFTER, CHAIN, "The adapted model needs for chains of sums"),
    ):
        told = rows(tables["layers"], case=case, task=task, protocol=SAID)
        yield f"{words} {significant(told, 'layer')}."


def significant(told: pd.DataFrame, column: str) -> str:
    """Number of significant layers, of how many right answers, and what could be.

    Args:
        told: a suite's layers under one protocol.
        column: which number of a layer is told.
    """
    if not len(told):
        return "no layers: none was asked"
    sure = told[told["significant"] & (told["share_lost"] > 0)]
    right, n = round(float((told["acc_intact"] * told["n_items"]).iloc[0])), len(told)
    needs = f"{len(sure)} layers significantly under `{SAID}`{_colon_and_layers(sure[column])}"
    if not told["signal"].all():
        return f"{needs} (it has no signal)"
    least = least_change(n)
    if least > right:
        return (
            f"{needs}, and could not: of {right} right answers not even all are enough for one of "
            f"{n} layers to be significant"
        )
    most = told[told["share_lost"] >= told["share_lost"].max() - 1e-9]
    share = number(100 * most["share_lost"].iloc[0])
    largest = f"; most is lost without {_alike(most[column])}, {share} %" * bool(len(sure))
    return (
        f"{needs}; of {right} right answers {least} must be lost for one of {n} layers to be so by "
        f"itself{largest}"
    )


def _alike(layers: Iterable[int]) -> str:
    every = sorted(map(int, layers))
    return f"layer{'s' * (len(every) > 1)} {ranges(every)}"


def readout_sentences(tables: Tables) -> Iterator[str]:
    """First layer from which the lens reads the answer, and the last position holds it."""
    for what, column, name, unit in (
        ("its first token on top of the logit lens for half of the items", "on_top", "lens",
         "items"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching", "pairs"),
    ):  # fmt: skip
        none = "; none: not at the last layer either" * (name == "lens")
        said = [
            f"{words} {_first(one, column)} ({int(one['n_items'].iloc[0])} {unit})"
            for case, task, words in (
                (BASE, TWO, "two numbers, before"), (AFTER, TWO, "after"), (AFTER, CHAIN, "chains")
            )
            if len(one := rows(tables[name], case=case, task=task))
        ]  # fmt: skip
        yield (
            f"The first layer with the answer {what}, under `continuation`: "
            f"{', '.join(said)}{none}."
        )


def transplant_sentences(tables: Tables) -> Iterator[str]:
    """Effect of adapted layers on the base, and of their return."""
    every = rows(tables["transplant"], case=AFTER, task=CHAIN)
    if every.empty:
        yield "There is no gap on chains that a transplant could move."
        return
    alone = rows(every, set="single")
    gap = round(float(((alone["acc_other"] - alone["acc_base"]) * alone["n_items"]).iloc[0]))
    for way, words in WAYS.items():
        told = rows(alone, direction=way)
        most = told[told["moved"] >= told["moved"].max() - 1e-9]
        sure = told.loc[(told["p_run"] < ALPHA) & (told["moved"] > 0), "layer"]
        bounds = (100 * most[name].max() for name in ("moved", "run_low", "run_high"))
        n = int(most["n_items"].iloc[0])
        yield (
            f"{words} is {round(float(most['moved'].iloc[0] * n))} of {n} items "
            f"({_alike(most['layer'])}), {interval(*bounds)} points (bounds over the run) of a gap "
            f"of {gap} items under `{SAID}`; {len(sure)} single layers do so "
            f"significantly{_colon_and_layers(sure)}."
        )
    n_tests = int(alone["run_tests"].max()) if "run_tests" in alone else len(alone)
    if least_change(n_tests) > gap:
        yield (
            "A layer that moves all of the gap would not be significant: "
            f"{least_change(n_tests)} items moved one way are the least among the {n_tests} tests "
            "of the run. Whether a single adapted layer carries the gain is open."
        )
    else:
        found = carriers(tables)
        yield (
            f"A single adapted layer carries the gain (brings it, and its return destroys it) in "
            f"{len(found)} of {alone['layer'].nunique()} layers{_colon_and_layers(found)}."
        )
    for row in rows(tables["transplant_ranks"], case=AFTER, task=CHAIN).to_dict("records"):
        bounds = (row[name] for name in ("rho", "rho_low", "rho_high"))
        yield (
            f"Rank correlation of how far a layer's weights moved with what it "
            f"{row['direction']}: {interval(*bounds, digits=2)} over {row['n_layers']} layers."
        )


def depths(tables: Tables) -> Iterator[str]:
    """Established differences of depth."""
    told = rows(tables["differences"], case=AFTER, family="depth", axis="computation")
    said = [
        f"{row['measure']} of {row['capability']} by {row['method']} under `{row['protocol']}` "
        f"{interval(row['difference'], row['low'], row['high'], 2)} ({row['n_items']} items)"
        f"{' (established)' if row['significant'] else ''}"
        for row in told.to_dict("records")
    ]
    yield f"Relative depths after minus before, where both have one: {join_words(said) or 'none'}."


def in_readme(text: str, tables: Tables) -> str:
    """A page of the study with what it has of opening and findings made anew."""
    for (begin, end), found in (
        (OPENING, summary_sentences(tables)),
        ((BEGIN, END), findings(tables)),
    ):
        if begin not in text:
            continue
        before, rest = text.split(begin)
        listed = "\n".join(f"- {sentence}" for sentence in found)
        text = f"{before}{begin}\n{listed}\n{end}{rest.split(end)[1]}"
    return text


def needed_layers(tables: Tables, case: str, task: str) -> list[int]:
    """The layers without which a suite loses significantly under ``generate``."""
    told = rows(tables["layers"], case=case, task=task, protocol=SAID, significant=True)
    return sorted(int(layer) for layer in told.loc[told["share_lost"] > 0, "layer"])


def carriers(tables: Tables) -> list[int]:
    """Single adapted layers that bring the gain, and whose return destroys it."""
    alone = rows(tables["transplant"], case=AFTER, task=CHAIN, set="single")
    sure = alone[(alone["p_run"] < ALPHA) & (alone["moved"] > 0)]
    ways = [set(rows(sure, direction=way)["layer"]) for way in WAYS]
    return sorted(int(layer) for layer in ways[0] & ways[1])


def _colon_and_layers(layers: Iterable[int]) -> str:
    """A colon and the layers, or nothing."""
    every = sorted(layers)
    return f": {ranges(every)}" if every else ""


def _first(one: pd.DataFrame, column: str) -> str:
    enough = one.sort_values("layer")
    enough = enough.loc[enough[column] >= HALF, "layer"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


WAYS = {
    "brings": "The most of the gain that a single adapted layer brings to the base",
    "destroys": "The most of it that the return of a single layer to the base's weights destroys",
}
TOLD = (
    learning_sentences,
    new_layers_sentences,
    side_effect_sentences,
    needed_layer_sentences,
    readout_sentences,
    transplant_sentences,
    depths,
)
AGAIN = (agreement_of_trainings, further_learning, further_side_effects)
