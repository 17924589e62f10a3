"""Sentences of this study's pages, from its saved tables.

A test compares the pages with these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from healing_figures import CASES, ORIGINAL, TASKS
from healing_words import (
    ALPHA,
    CHOSEN,
    HALF,
    SAID,
    Tables,
    case_gains,
    layer_set,
    lost_suites,
    n_items,
    share_words,
    without_layers_words,
)
from scipy.stats import t
from transplant_sentences import transplant_sentences

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, join_words, number, protocol_phrase, spread
from layerwise.stats.signals.power import least_change, least_right

PROTOCOLS = (SAID, CHOSEN)
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
OPENING = "<!-- opening, made by run.py -->", "<!-- end of the opening -->"


def summary_sentences(tables: Tables) -> Iterator[str]:
    """Established results, in short: what comes back, in how many seeds, and where."""
    for case in CASES:
        for protocol in PROTOCOLS:
            for task in lost_suites(tables, case, protocol):
                told = case_gains(tables, case, task, protocol)
                if not told["improved"].any():
                    yield (
                        f"{without_layers_words(case)}, {TASKS[task]} are not shown to come back "
                        + (f"{protocol_phrase(protocol)}.")
                    )
                    continue
                share = spread((100 * told["closed"]).round())
                yield (
                    f"{without_layers_words(case)}, {TASKS[task]} come back "
                    f"{protocol_phrase(protocol)} in "
                    f"{share_words(told['improved'])} seeds: {share} % of the loss."
                )
                ways = (
                    list(needed_layers_by_seed(tables, case, task).values())
                    if protocol == SAID
                    else []
                )
                if ways and set(ways) == {"others"}:
                    count = _count(ways, "others")
                    yield f"They then need layers that the originals do not, in {count} seeds."
    spared = rows(tables["gains"], case="spare")
    if not spared["leads"].any():
        points = number(100 * float(spared["lead_high"].max()))
        yield (
            f"{without_layers_words('spare')}, no loss is established in {len(spared)} "
            f"tests. Losses of "
            f"{points} points are not excluded."
        )


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the page."""
    return [sentence for tell in TOLD for sentence in tell(tables)]


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of one value per seed."""
    every = np.asarray(values, dtype=float)
    half = t.ppf(0.975, len(every) - 1) * every.std(ddof=1) / np.sqrt(len(every))
    return float(every.mean()), float(every.mean() - half), float(every.mean() + half)


def verdict(tables: Tables) -> Iterator[str]:
    """The sentence that each case earns: what came back, and in which layers."""
    for case in CASES:
        for task in lost_suites(tables, case, SAID):
            told = case_gains(tables, case, task, SAID)
            came = (
                f"{join_words(_bounds(told, 'closed', 100))} % of the lost {TASKS[task]} come back "
                f"under `{SAID}`"
            )
            if not told["improved"].any():
                yield (
                    f"**{without_layers_words(case)}, it is in no seed established that "
                    f"{TASKS[task]} come "
                    f"back: {came}, which guessing may account for (fewer than "
                    f"{_least_above_guessing(told)} of "
                    f"{n_items(told)} right cannot be told from it).**"
                )
                continue
            ways = list(needed_layers_by_seed(tables, case, task).values())
            yield (
                f"**{without_layers_words(case)}, {came}, established in "
                f"{share_words(told['improved'])} training "
                f"seeds. Significant for them in the healed models under `{SAID}` are only layers "
                f"that are so in the originals in {_count(ways, 'same')} seeds, others as well or "
                f"instead in {_count(ways, 'others')}, and none can be told in "
                f"{_count(ways, 'none')}.{_nothing_left_note(tables, case, task)}**"
            )


def _least_above_guessing(told: pd.DataFrame) -> int | None:
    """Right answers that are above guessing by a single test at the level of signal."""
    return least_right(n_items(told), float(told["chance"].iloc[0]), level=ALPHA / 2)


def _nothing_left_note(tables: Tables, case: str, task: str) -> str:
    """Says so where nothing that the originals needed is left."""
    left = [set(one) - set(CASES[case]) for one in critical_sets(tables, ORIGINAL, task).values()]
    return "" if any(left) else " (All that the originals needed is left out.)"


def needed_layers_by_seed(tables: Tables, case: str, task: str) -> dict[int, str]:
    """Comparison, by seed, of the layers that healed models and the originals need.

    ``none`` where the healed model has no signal, nothing is better than before healing, or no
    layer is significant.
    """
    found, before = {}, critical_sets(tables, ORIGINAL, task)
    for seed, after in critical_sets(tables, case, task).items():
        told = rows(tables["gains"], case=case, task=task, protocol=SAID, seed=seed)
        if not (after and told["improved"].all()):
            found[seed] = "none"
        else:
            found[seed] = "others" if set(after) - set(before[seed]) else "same"
    return found


def claims(tables: Tables) -> Iterator[str]:
    """The verdict on what arXiv:2602.01997 is cited for."""
    for task, cited in (("brackets", "the closing of brackets"), ("two-hops", "arithmetic")):
        said = []
        for case in CASES:
            if task in lost_suites(tables, case, SAID):
                told = case_gains(tables, case, task, SAID)
                away = [bool(high < HALF) for high in told["closed_high"]]
                back = [bool(low > HALF) for low in told["closed_low"]]
                said.append(
                    f"{without_layers_words(case).lower()} that {_verdict(away, back)} "
                    f"(less than half comes "
                    f"back in {share_words(away)} seeds, more than half in {share_words(back)})"
                )
        yield (
            f"As cited, training does not restore what pruning takes of {cited} "
            f"(arXiv:2602.01997); of {TASKS[task]} under `{SAID}`, and this short training: "
            f"{'; '.join(said) or 'no signal, for no case loses them'}."
        )
    yield "Of arithmetic itself there is no signal: the language has none, only two hops."


def spare(tables: Tables) -> Iterator[str]:
    """Cost to the originals of the layer that was planted as spare, skipped and left out."""
    told = rows(tables["layers"], case=ORIGINAL, layer=CASES["spare"][0])
    harm = rows(told, significant=True)
    most = told.loc[told["acc_diff"].idxmax()]
    before = rows(tables["gains"], case="spare")
    worst = before.loc[before["lead"].idxmax()]
    yield (
        f"Layer {CASES['spare'][0]} was planted as spare. Skipped in the originals, it has "
        f"{len(harm)} significant effects in {len(told)} tests of suite, protocol and seed, the "
        f"largest loss is {interval(*(100 * most[name] for name in LOSS))} points (bounds over the "
        f"run). Left out, {int(before['leads'].sum())} of {len(before)} losses are established, "
        f"the largest is {interval(*(100 * worst[name] for name in LEAD))} points "
        f"({least_change()} of {n_items(before)} items lost and none won are the least that could "
        f"be), and healed {int(before['worse'].sum())} are significantly worse than pruned."
    )


def recovery_sentences(tables: Tables) -> Iterator[str]:
    """Losses, and what of them came back, by case, suite and protocol."""
    for case in CASES:
        for protocol in PROTOCOLS:
            for task in lost_suites(tables, case, protocol):
                told = case_gains(tables, case, task, protocol)
                yield (
                    f"{without_layers_words(case)}, under `{protocol}`: {TASKS[task]} "
                    f"{_percents(told['acc_teacher'])} % in the originals, "
                    f"{_percents(told['acc_student'])} % pruned, "
                    f"{_percents(told['acc_distilled'])} % healed, better than pruned by more than "
                    f"guessing may account for in {share_words(told['improved'])} seeds; "
                    f"of the loss "
                    f"{join_words(_bounds(told, 'closed', 100))} % come back, "
                    f"{_share_over_seeds(told['closed'])}."
                )


def course(tables: Tables) -> Iterator[str]:
    """Distance of the healed models from their originals on held-out texts, on the way."""
    said = []
    for case in CASES:
        read = rows(tables["curve"], case=case).dropna(subset=["held_out_kl"])
        points = read.groupby("step")["held_out_kl"].mean()
        half = points.index[points.index <= points.index.max() / 2].max()
        told = [number(points[step], 3) for step in (0, half, points.index.max())]
        said.append(f"{without_layers_words(case).lower()} {join_words(told)}")
    yield (
        "Divergence from the original on held-out texts in nats a token, before healing, after "
        f"half of the steps and after all, means over seeds: {'; '.join(said)}."
    )


def beside(tables: Tables) -> Iterator[str]:
    """Changes of that of which no loss was established."""
    for case in CASES:
        said, same = [], []
        for protocol in PROTOCOLS:
            rest = [task for task in TASKS if task not in lost_suites(tables, case, protocol)]
            told = rows(tables["gains"], case=case, protocol=protocol, task=rest)
            for task in rest:
                one = rows(told, task=task)
                if one["gain"].any():
                    said.append(f"{TASKS[task]} under `{protocol}` {_over_seeds(one['gain'])}")
                else:
                    same.append(one)
        every = pd.concat(same)
        low, high = (number(100 * each) for each in (every["gain_low"].min(),
                                                     every["gain_high"].max()))  # fmt: skip
        yield (
            f"{without_layers_words(case)}, what was not significantly lost in all seeds "
            f"changes by healing in "
            f"points, over seeds: {''.join(f'{each}; ' for each in said)}{len(same)} "
            f"suite{'s' * (len(same) > 1)} under a protocol by no item net in any seed (bounds of "
            f"a seed from {low} to {high})."
        )


def needed_layer_sentences(tables: Tables) -> Iterator[str]:
    """The layers that are needed, by original number, before and after."""
    for case in CASES:
        tasks = lost_suites(tables, case, SAID) or ["two-hops"]
        for task in tasks:
            before, after = (critical_sets(tables, one, task) for one in (ORIGINAL, case))
            originals = join_words(map(layer_set, before.values()))
            hush = silent(tables, case, task)
            if all(hush.values()):
                yield (
                    f"{without_layers_words(case)}, {TASKS[task]} under `{SAID}` have no "
                    f"signal in the healed "
                    f"models in any seed, so that no layer can be told (originals: {originals})."
                )
                continue
            healed = join_words(
                "(no signal)" if hush[n] else layer_set(mine) for n, mine in after.items()
            )
            yield (
                f"{without_layers_words(case)}, {TASKS[task]} under `{SAID}` are lost "
                f"significantly without "
                f"layers {healed} of the healed models (originals: "
                f"{originals}){_new(tables, case, task)}."
            )


def silent(tables: Tables, case: str, task: str, protocol: str = SAID) -> dict[int, bool]:
    """By seed, whether a suite has no signal in a model."""
    told = rows(tables["signal"], case=case, task=task, protocol=protocol)
    return {int(row["seed"]): not row["signal"] for row in told.to_dict("records")}


def _new(tables: Tables, case: str, task: str) -> str:
    """The largest loss at a layer that the original did not need, seed by seed."""
    before, told, sure = critical_sets(tables, ORIGINAL, task), [], []
    for seed, after in critical_sets(tables, case, task).items():
        new = sorted(set(after) - set(before[seed]))
        every = rows(tables["layers"], case=case, task=task, protocol=SAID, seed=seed, original=new)
        sure.append(bool((every["p_run"] < ALPHA).any()))
        if len(every):
            most = every.loc[every["acc_diff"].idxmax()]
            told.append(
                f"layer {most['original']} {interval(*(100 * most[name] for name in LOSS))} of "
                f"{number(100 * most['acc_intact'])} points in seed {seed}"
            )
    words = "; of those that are not significant in the originals, most is lost without "
    ending = f" (bounds over the run; over the run one is significant in {share_words(sure)} seeds)"
    return f"{words}{join_words(told)}{ending}" if told else ""


def readout_sentences(tables: Tables) -> Iterator[str]:
    """First layer from which the lens reads the answer, and the last position holds it."""
    for what, column, name, unit in (
        ("(their first tokens) on top of the logit lens for half of the items", "on_top", "lens",
         "items; none: not at the last layer either"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching", "pairs"),
    ):  # fmt: skip
        told = rows(tables[name], case=ORIGINAL)
        said = []
        for case in CASES:
            for task in lost_suites(tables, case, SAID):
                after, before = (
                    [_first(rows(tables[name], case=host, task=task, seed=seed), column)
                     if not none else "no signal"
                     for seed, none in silent(tables, host, task).items()]
                    for host in (case, ORIGINAL)
                )  # fmt: skip
                said.append(
                    f"{without_layers_words(case).lower()}, {TASKS[task]} {', '.join(after)} "
                    f"({', '.join(before)})"
                )
        yield (
            f"The first layer with answers {what} ({int(told['n_items'].max())} {unit}; under "
            f"`{CHOSEN}`), healed (originals): {'; '.join(said)}."
        )


def depths(tables: Tables) -> Iterator[str]:
    """Established differences of depth from the originals."""
    for case in CASES:
        told = rows(tables["differences"], case=case, family="depth", axis="computation")
        sure, large = told[told["p_holm"] < ALPHA], rows(told, significant=True)
        said = [
            f"{row['capability']}, {row['measure']} by {row['method']} under `{row['protocol']}` "
            f"{interval(row['difference'], row['low'], row['high'], 2)}"
            for row in large.to_dict("records")
        ]
        listed = f" ({'; '.join(said)})" if said else ""
        yield (
            f"{without_layers_words(case)}, of {len(told)} relative depths {len(sure)} "
            f"differ significantly "
            f"from the originals', {len(large)} of these by a layer or more{listed}."
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


def critical_sets(tables: Tables, case: str, task: str) -> dict[int, list[int]]:
    """By seed, the layers by original number without which a suite loses significantly."""
    found = {}
    told = rows(tables["layers"], case=case, task=task, protocol=SAID)
    for seed, one in told.groupby("seed"):
        sure = one.loc[one["significant"] & (one["share_lost"] > 0), "original"]
        found[int(str(seed))] = sorted(int(layer) for layer in sure)
    return found


def _verdict(away: list[bool], back: list[bool]) -> str:
    if all(away):
        return "is not contradicted"
    return "does not hold" if all(back) else "is open"


def _first(one: pd.DataFrame, column: str) -> str:
    if one.empty:  # no prompts that the model solves, so nothing to patch between
        return "no pairs"
    enough = one.sort_values("original")
    enough = enough.loc[enough[column] >= HALF, "original"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


def _share_over_seeds(values: pd.Series) -> str:
    """Mean and interval; three seeds that are alike say nothing of how seeds differ."""
    alike = values.nunique() == 1
    return "the same in all seeds" if alike else f"{_over_seeds(values)} % over seeds"


def _over_seeds(values: pd.Series) -> str:
    return interval(*over_seeds([100 * float(one) for one in values]))


def _percents(values: pd.Series) -> str:
    return ", ".join(number(100 * value) for value in values)


def _bounds(table: pd.DataFrame, name: str, times: float) -> list[str]:
    every = table[[name, f"{name}_low", f"{name}_high"]]
    return [interval(*(times * float(one) for one in row)) for row in every.itertuples(index=False)]


def _count(ways: Sequence[str], way: str) -> str:
    return f"{ways.count(way)} of {len(ways)}"


LEAD = ("lead", "lead_low", "lead_high")
LOSS = ("acc_diff", "acc_diff_run_low", "acc_diff_run_high")
TOLD = (
    verdict,
    claims,
    spare,
    recovery_sentences,
    course,
    beside,
    needed_layer_sentences,
    readout_sentences,
    transplant_sentences,
    depths,
)
