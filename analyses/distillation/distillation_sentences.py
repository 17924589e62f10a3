"""Sentences of this study's pages, from its saved tables.

A test compares the pages with these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from distillation_figures import CASES
from scipy.stats import t

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, join_words, number, ranges, spread
from layerwise.stats.signals.power import least_change, least_right

TWO_HOP, LOOK_UP, SAID = "two-hops", "look-up", "generate"
# The layers that do two hops in the teachers, and those that are not trained in a case.
PLANTED, FROZEN = (2, 3, 4), {"frozen": (2, 3, 4)}
STUDENTS = [case for case in CASES if case != "teacher"]
NAMES = {"equal": "At equal depth", "half": "At half depth", "frozen": "With layers 2 to 4 frozen"}
HALF = 0.5
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
OPENING = "<!-- opening, made by run.py -->", "<!-- end of the opening -->"
ALPHA = 0.05
Tables = Mapping[str, pd.DataFrame]


def summary_sentences(tables: Tables) -> Iterator[str]:
    """Established results, in short: what holds with every training seed, and what is open."""
    yield f"In the teachers, two hops need layers {_always(tables, 'teacher')}."
    brings, changed = [], []
    for case in STUDENTS:
        told = rows(tables["gains"], case=case, protocol=SAID)
        hops = rows(told, task=TWO_HOP)
        changed += [*rows(told, task=LOOK_UP)["worse"], *rows(told, task=LOOK_UP)["improved"]]
        right = spread((100 * hops["acc_distilled"]).round())
        verb = "learn" if hops["improved"].all() else "are not all shown to learn"
        yield f"{NAMES[case]}, students {verb} two hops: {right} % are right."
        yield f"{NAMES[case]}, two hops need layers {_always(tables, case)}."
        alone = single_trained_layers(rows(tables["transplant"], case=case), case)
        sure = rows(alone, direction="brings").query("p_run < @ALPHA and moved > 0")
        brings.append(len(sure))
    if not any(brings):
        yield "No single trained layer is shown to bring a part of the gain."
    if not any(changed):
        yield "Look-ups are not shown to get worse or better."


def _always(tables: Tables, case: str) -> str:
    """Layers without which two hops are lost significantly in every seed."""
    sets = critical_sets(tables["layers"], case).values()
    return ranges(sorted(set.intersection(*map(set, sets))))


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the page."""
    return [sentence for tell in TOLD for sentence in tell(tables)]


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of one value per seed."""
    every = np.asarray(values, dtype=float)
    half = t.ppf(0.975, len(every) - 1) * every.std(ddof=1) / np.sqrt(len(every))
    return float(every.mean()), float(every.mean() - half), float(every.mean() + half)


def learning_sentences(tables: Tables) -> Iterator[str]:
    """Abilities of each student after distillation, seed by seed."""
    for case in STUDENTS:
        told = rows(tables["gains"], case=case, task=TWO_HOP, protocol=SAID).sort_values("seed")
        yield (
            f"{NAMES[case]}, {_percents(told['acc_distilled'])} % of {_n(told)} two-hop items are "
            f"right under `generate` (before: {_percents(told['acc_student'])} %, the teachers: "
            f"{_percents(told['acc_teacher'])} %), significantly better than before in "
            f"{_count_of(told['improved'])} seeds; of the teachers' lead "
            f"{join_words(_bounds(told, 'closed', 100))} % are closed."
        )


def by_protocol(tables: Tables) -> Iterator[str]:
    """Under which protocols two hops have signal."""
    signal = rows(tables["signal"], task=TWO_HOP)
    for protocol in ("continuation", "letter"):
        said = [
            f"{CASES[case]}: {_percents(one['accuracy'])} %, signal in {_count_of(one['signal'])}"
            for case in CASES
            if len(one := rows(signal, case=case, protocol=protocol).sort_values("seed"))
        ]
        yield f"Two hops under `{protocol}` ({'; '.join(said)} seeds)."


def look_up_sentences(tables: Tables) -> Iterator[str]:
    """Changes of look-ups."""
    for case in STUDENTS:
        told = rows(tables["gains"], case=case, task=LOOK_UP, protocol=SAID).sort_values("seed")
        yield (
            f"{NAMES[case]}, look-ups under `generate` change by "
            f"{join_words(_bounds(told, 'gain', 100))} points (significantly worse in "
            f"{_count_of(told['worse'])} seeds, better in {_count_of(told['improved'])}; "
            f"{least_change()} of "
            f"{_n(told)} items lost and none won are the least that could be)."
        )


def needed_layer_sentences(tables: Tables) -> Iterator[str]:
    """The layers that two hops need, and what share of the losses lies where the teachers' do."""
    for case, name in {"teacher": "In the teachers", **NAMES}.items():
        sets = critical_sets(tables["layers"], case)
        share = rows(tables["places"], case=case, protocol=SAID).sort_values("seed")
        sure = has_signal(tables["signal"], case)
        if not any(sure.values()):
            yield f"{name}, there is no signal of two hops in any seed, and so no place to tell."
            continue
        told = [f"{{{', '.join(map(str, sets[seed]))}}}" if sure[seed] else "no signal"
                for seed in sorted(sets)]  # fmt: skip
        yield (
            f"{name}, two hops under `generate` are lost significantly without layers "
            f"{join_words(told)}; layers at the teachers' depths (2 to 4 of 8) hold "
            f"{join_words(_bounds(share, 'share', 100))} % of all that skipping costs, "
            f"{_share_over_seeds(tables, case)} % over seeds."
        )


def undetected_sentences(tables: Tables) -> Iterator[str]:
    """Losses too small to be significant, and what the teachers' last layer costs."""
    told = rows(tables["layers"], task=TWO_HOP, protocol=SAID)
    n_layers = int(told["layer"].max()) + 1
    yield (
        f"Of {_n(told)} items {least_change(n_layers)} must be lost without a layer of "
        f"{n_layers}, and none won, for it to be significant if it is the only one, and "
        f"{least_change()} if all others are: layers that are not named may cost as much."
    )
    for case in STUDENTS:
        one = rows(told, case=case, layer=PLANTED[-1]).sort_values("seed")
        if len(one):
            yield (
                f"{NAMES[case]}, {join_words(_bounds(one, 'share', 100, 'share_lost'))} % "
                f"of two hops "
                f"under `generate` are lost without layer {PLANTED[-1]}, which does the second hop "
                f"in the teachers, significantly in {_count_of(one['significant'])} seeds."
            )


def shared_layer_sentences(tables: Tables) -> Iterator[str]:
    """Layers at other depths that two hops need, and whether look-ups need them, too."""
    for case in STUDENTS:
        n_layers = int(rows(tables["layers"], case=case)["layer"].max()) + 1
        sets, others = (critical_sets(tables["layers"], case, task) for task in (TWO_HOP, LOOK_UP))
        always = set.intersection(*map(set, sets.values()))
        told = [
            f"{layer} in {_count_of([layer in one for one in others.values()])}"
            for layer in sorted(always)
            if not _inside(layer, n_layers)
        ]
        if told:
            yield (
                f"{NAMES[case]}, of the layers at other depths that are significant for two hops "
                f"under `generate` in all seeds, look-ups lose significantly without layer "
                f"{join_words(told)} seeds."
            )


def verdict(tables: Tables) -> Iterator[str]:
    """The sentence that each case earns."""
    for case in STUDENTS:
        n_layers = int(rows(tables["layers"], case=case)["layer"].max()) + 1
        sets, sure = critical_sets(tables["layers"], case), has_signal(tables["signal"], case)
        same = sum(bool(one) and all(_inside(layer, n_layers) for layer in one)
                   for seed, one in sets.items() if sure[seed])  # fmt: skip
        other = sum(any(not _inside(layer, n_layers) for layer in one)
                    for seed, one in sets.items() if sure[seed])  # fmt: skip
        n_there = sum(_inside(layer, n_layers) for layer in range(n_layers))
        forced = (
            f" Of {n_layers} layers only {n_there} lie at these depths, and the teachers need "
            f"{len(PLANTED)}: that was to be expected."
        ) * (n_there < len(PLANTED))
        yield (
            f"**{NAMES[case]}, two hops under `generate` are lost significantly without layers at "
            f"other depths than the teachers' in {other} of {len(sets)} training seeds, without "
            f"layers at these depths alone in {same}, and {len(sets) - same - other} have no "
            f"signal or no significant layer; of all that skipping single layers costs "
            f"{_share_over_seeds(tables, case)} % lies at the teachers' depths.{forced}**"
        )


def readout_sentences(tables: Tables) -> Iterator[str]:
    """First layer from which the lens reads the answer, and the last position holds it."""
    for what, column, name, unit in (
        ("on top of the logit lens for half of the items", "on_top", "lens", "items"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching", "pairs"),
    ):  # fmt: skip
        told = rows(tables[name], task=TWO_HOP)["n_items"]
        said = []
        for case in CASES:
            table = rows(tables[name], case=case, task=TWO_HOP)
            first = [_first(one, column) for _, one in table.groupby("seed")]
            said.append(f"{CASES[case]} {', '.join(first) or 'no pairs'}")
        n = "–".join(map(str, sorted({int(min(told)), int(max(told))})))
        yield (
            f"The first layer with two-hop answers {what} ({n} {unit} under `continuation`), by "
            f"seed: {'; '.join(said)}."
        )


def transplant_sentences(tables: Tables) -> Iterator[str]:
    """Effect of distilled layers on the student as it was, and of their return."""
    for case in STUDENTS:
        every = rows(tables["transplant"], case=case)
        if every.empty:
            yield f"{NAMES[case]}, there is no gap to move in any seed."
            continue
        alone = single_trained_layers(every, case)
        chance = float(rows(tables["transplant_gaps"], case=case)["chance"].iloc[0])
        each = [one for _, one in rows(alone, direction="brings").groupby("seed")]
        sure = [bool(((one["p_run"] < ALPHA) & (one["moved"] > 0)).any()) for one in each]
        gaps = [number(100 * (one["acc_other"] - one["acc_base"]).iloc[0]) for one in each]
        yield (
            f"{NAMES[case]}, put into the student before, the most that a single trained layer "
            f"brings is {join_words(map(_strongest_layer, each))} of {join_words(gaps)} "
            f"points gained "
            f"(bounds over "
            f"the run), significantly in {_count_of(sure)} seeds; "
            f"{_least_detectable(every, chance)} of "
            f"{_n(every)} items right are the least that can be told from guessing there. Put back "
            f"as they were before, layers {join_words(destroyers(alone))} significantly "
            f"destroy a part "
            f"(over the run); a layer carries the gain (it brings and its return destroys, each "
            f"significantly over the run) in {_count_of(carriers(alone))} seeds; from the "
            f"first layer "
            f"on, half of the gain is there with layers up to {join_words(cumulative(every))}."
        )


def single_trained_layers(every: pd.DataFrame, case: str) -> pd.DataFrame:
    """Single layers that were exchanged; those that were not trained are the same in both."""
    alone = rows(every, set="single")
    return alone[~alone["layer"].isin(FROZEN.get(case, ()))]


def _strongest_layer(one: pd.DataFrame) -> str:
    """Effect of the layer that moves most, and which it is, or how many are alike."""
    most = one[one["moved"] >= one["moved"].max() - 1e-9]
    bounds = (100 * most[name].max() for name in ("moved", "run_low", "run_high"))
    layers = [int(layer) for layer in most["layer"]]
    which = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers alike"
    return f"{interval(*bounds)} ({which})"


def _least_detectable(every: pd.DataFrame, chance: float) -> int | None:
    """Right answers above guessing over the tests of a seed's run."""
    n_tests = int(every.groupby("seed").size().max())
    return least_right(_n(every), chance, n_tests)


def destroyers(alone: pd.DataFrame) -> list[str]:
    """By seed, the single layers whose return destroys a part of the gain."""
    told = rows(alone, direction="destroys")
    sure = told.assign(sure=(told["p_run"] < ALPHA) & (told["moved"] > 0))
    return [
        f"{{{', '.join(str(int(layer)) for layer in sorted(one.loc[one['sure'], 'layer']))}}}"
        for _, one in sure.groupby("seed")
    ]


def carriers(alone: pd.DataFrame) -> list[bool]:
    """By seed, whether some single layer brings the gain and its return destroys it."""
    found = []
    for _, one in alone.groupby("seed"):
        sure = one[(one["p_run"] < ALPHA) & (one["moved"] > 0)]
        layers = [set(rows(sure, direction=way)["layer"]) for way in ("brings", "destroys")]
        found.append(bool(layers[0] & layers[1]))
    return found


def cumulative(every: pd.DataFrame) -> list[str]:
    """By seed, up to which layer, from the first on, layers bring half of the gain."""
    found = []
    for _, one in rows(every, set="from_first", direction="brings").groupby("seed"):
        ends = one.assign(last=[int(max(layers)) for layers in one["layers"]]).sort_values("last")
        enough = ends.loc[ends["share"] >= HALF, "last"]
        found.append(str(enough.iloc[0]) if len(enough) else "none")
    return found


def depths(tables: Tables) -> Iterator[str]:
    """Established differences of depth from the teachers."""
    for case in STUDENTS:
        told = rows(tables["differences"], case=case, family="depth", capability="reasoning",
                    axis="computation")  # fmt: skip
        if told.empty:
            yield f"{NAMES[case]}, no depth can be compared with the teachers'."
            continue
        said = [
            f"{row['measure']} by {row['method']} under `{row['protocol']}` "
            f"{interval(row['difference'], row['low'], row['high'], 2)}"
            f"{_sure(row)}"
            for row in told.to_dict("records")
        ]
        yield f"{NAMES[case]}, relative depths minus the teachers': {join_words(said)}."


def _sure(row: Mapping[Any, Any]) -> str:
    """True if a difference is significant, and as large as a layer of the shallower model."""
    if row["significant"]:
        return " (significant, a layer or more)"
    return " (significant, less than a layer)" * bool(row["p_holm"] < ALPHA)


def claims(tables: Tables) -> Iterator[str]:
    """The verdict on what arXiv:2510.02091 says of distillation and of transplanted layers."""
    for case in STUDENTS:
        sets, sure = critical_sets(tables["layers"], case), has_signal(tables["signal"], case)
        n_layers = int(rows(tables["layers"], case=case)["layer"].max()) + 1
        many = [len(one) > n_layers / 2 for seed, one in sets.items() if sure[seed]]
        every = rows(tables["transplant"], case=case)
        alone = rows(single_trained_layers(every, case), direction="brings")
        ends = [_run_wide_shares(one) for _, one in alone.groupby("seed")]
        enough, less = [low >= HALF for low, _ in ends], [high < HALF for _, high in ends]
        yield (
            f"{NAMES[case]}, under `generate`: that reasoning comes to need certain layers, half "
            f"of all or fewer, {_certain(many, len(sets))}; that a single transplanted layer "
            f"recovers half of the gain or more {_recovers(enough, less)}."
        )


def _run_wide_shares(one: pd.DataFrame) -> tuple[float, float]:
    """The largest bounds of what a layer brings, as shares of the gain, over the run."""
    gap = one["acc_other"] - one["acc_base"]
    return float((one["run_low"] / gap).max()), float((one["run_high"] / gap).max())


def _certain(many: list[bool], n_seeds: int) -> str:
    if not many:
        return f"has no signal in any of {n_seeds} seeds"
    word = (
        "does not hold" if all(many) else
        "is not contradicted, nor shown, since small losses are missed" if not any(many) else
        "does not hold in every seed"
    )  # fmt: skip
    silent = f", no signal in {n_seeds - len(many)}" if len(many) < n_seeds else ""
    return f"{word} (more are significant in {_count_of(many)} seeds{silent})"


def _recovers(enough: list[bool], less: list[bool]) -> str:
    if not enough:
        return "is open (there is no gap to move)"
    word = "holds" if all(enough) else "does not hold" if all(less) else "is open"
    return (
        f"{word} (by bounds over the run half or more in {_count_of(enough)} seeds, less "
        f"than half in "
        f"{_count_of(less)})"
    )


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


def critical_sets(layers: pd.DataFrame, case: str, task: str = TWO_HOP) -> dict[int, list[int]]:
    """By seed, the layers without which a suite loses significantly under ``generate``."""
    found = {}
    for seed, one in rows(layers, case=case, task=task, protocol=SAID).groupby("seed"):
        sure = one.loc[one["significant"] & (one["share_lost"] > 0), "layer"]
        found[int(str(seed))] = sorted(int(layer) for layer in sure)
    return found


def has_signal(signal: pd.DataFrame, case: str) -> dict[int, bool]:
    """By seed, whether two hops have signal under ``generate``."""
    told = rows(signal, case=case, task=TWO_HOP, protocol=SAID)
    return {int(row["seed"]): bool(row["signal"]) for row in told.to_dict("records")}


def _inside(layer: int, n_layers: int) -> bool:
    """True if half of a layer or more lies at the teachers' depths, 2/8 to 5/8."""
    overlap = min((layer + 1) / n_layers, 5 / 8) - max(layer / n_layers, 2 / 8)
    return overlap * n_layers >= HALF


def _first(one: pd.DataFrame, column: str) -> str:
    enough = one.sort_values("layer")
    enough = enough.loc[enough[column] >= HALF, "layer"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


def _percents(values: pd.Series) -> str:
    return ", ".join(number(100 * value) for value in values)


def _share_over_seeds(tables: Tables, case: str) -> str:
    share = rows(tables["places"], case=case, protocol=SAID).sort_values("seed")["share"]
    return interval(*over_seeds(100 * share))


def _bounds(table: pd.DataFrame, name: str, times: float, estimate: str | None = None) -> list[str]:
    every = table[[estimate or name, f"{name}_low" if f"{name}_low" in table else "low",
                   f"{name}_high" if f"{name}_high" in table else "high"]]  # fmt: skip
    return [interval(*(times * float(one) for one in row)) for row in every.itertuples(index=False)]


def _n(table: pd.DataFrame) -> int:
    return int(table["n_items"].iloc[0])


def _count_of(values: Sequence[bool] | pd.Series) -> str:
    return f"{sum(map(bool, values))} of {len(values)}"


TOLD = (
    verdict,
    claims,
    learning_sentences,
    by_protocol,
    look_up_sentences,
    needed_layer_sentences,
    undetected_sentences,
    shared_layer_sentences,
    readout_sentences,
    transplant_sentences,
    depths,
)
