"""What the saved tables of this study say, as the sentences of its README.

A test holds the README to these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from healing_drawn import CASES, ORIGINAL, TASKS
from scipy.stats import t

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, joined, number

SAID, CHOSEN = "generate", "continuation"
PROTOCOLS = (SAID, CHOSEN)
HALF, ALPHA = 0.5, 0.05
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the README."""
    return [sentence for tell in TOLD for sentence in tell(tables)]


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of one value per seed."""
    every = np.asarray(values, dtype=float)
    half = t.ppf(0.975, len(every) - 1) * every.std(ddof=1) / np.sqrt(len(every))
    return float(every.mean()), float(every.mean() - half), float(every.mean() + half)


def lost(tables: Tables, case: str, protocol: str) -> list[str]:
    """The suites of which a loss is established in every seed, before healing."""
    told = rows(tables["gains"], case=case, protocol=protocol)
    return [task for task in TASKS if rows(told, task=task)["leads"].all()]


def verdict(tables: Tables) -> Iterator[str]:
    """The sentence that each case earns: what came back, and in which layers."""
    for case in CASES:
        for task in lost(tables, case, SAID):
            told = _gains(tables, case, task, SAID)
            came = (
                f"{joined(_bounds(told, 'closed', 100))} % of the lost {TASKS[task]} come back "
                f"under `{SAID}`"
            )
            if not told["improved"].any():
                yield (
                    f"**{_without(case)}, it is in no seed established that {TASKS[task]} come "
                    f"back: {came}, which guessing may account for.**"
                )
                continue
            ways = list(placed(tables, case, task).values())
            yield (
                f"**{_without(case)}, {came}, established in {_of(told['improved'])} seeds. What "
                f"the healed models do of them needs only layers that the originals needed in "
                f"{_count(ways, 'same')} seeds, others as well or instead in "
                f"{_count(ways, 'others')}, and cannot be placed in {_count(ways, 'none')}.**"
            )


def placed(tables: Tables, case: str, task: str) -> dict[int, str]:
    """By seed, whether healed models need the same layers as the originals, or others, too.

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
            if task in lost(tables, case, SAID):
                told = _gains(tables, case, task, SAID)
                away = [bool(high < HALF) for high in told["closed_high"]]
                back = [bool(low > HALF) for low in told["closed_low"]]
                said.append(
                    f"{_without(case).lower()} that {_verdict(away, back)} (less than half comes "
                    f"back in {_of(away)} seeds, more than half in {_of(back)})"
                )
        yield (
            f"As cited, training does not restore what pruning takes of {cited} "
            f"(arXiv:2602.01997); of {TASKS[task]}, and this short training: "
            f"{'; '.join(said) or 'no signal, for no case loses them'}."
        )
    yield "Of arithmetic itself there is no signal: the language has none, only two hops."


def spare(tables: Tables) -> Iterator[str]:
    """Whether the layer that is called spare is so by the originals' own profile."""
    told = rows(tables["layers"], case=ORIGINAL, layer=CASES["spare"][0])
    harm = rows(told, significant=True)
    before = rows(tables["gains"], case="spare")
    worst = before.loc[before["lead"].idxmax()]
    yield (
        f"Layer {CASES['spare'][0]} is spare by the originals' own profile: skipped, it brings "
        f"{len(harm)} significant effects in {len(told)} tests of suite, protocol and seed. "
        f"Pruned of it, {int(before['leads'].sum())} of {len(before)} losses are established, the "
        f"largest is {interval(*(100 * worst[name] for name in LEAD))} points, and healed "
        f"{int(before['worse'].sum())} are worse than pruned."
    )


def came_back(tables: Tables) -> Iterator[str]:
    """What was lost, and what of it came back, by case, suite and protocol."""
    for case in CASES:
        for protocol in PROTOCOLS:
            for task in lost(tables, case, protocol):
                told = _gains(tables, case, task, protocol)
                yield (
                    f"{_without(case)}, under `{protocol}`: {TASKS[task]} "
                    f"{_percents(told['acc_teacher'])} % in the originals, "
                    f"{_percents(told['acc_student'])} % pruned, "
                    f"{_percents(told['acc_distilled'])} % healed, better than pruned in "
                    f"{_of(told['improved'])} seeds; of the loss "
                    f"{joined(_bounds(told, 'closed', 100))} % come back, "
                    f"{_over_seeds(told['closed'])} % over seeds."
                )


def course(tables: Tables) -> Iterator[str]:
    """How far the healed models are from their originals on held-out texts, on the way."""
    said = []
    for case in CASES:
        read = rows(tables["curve"], case=case).dropna(subset=["held_out_kl"])
        points = read.groupby("step")["held_out_kl"].mean()
        half = points.index[points.index <= points.index.max() / 2].max()
        told = [number(points[step], 3) for step in (0, half, points.index.max())]
        said.append(f"{_without(case).lower()} {joined(told)}")
    yield (
        "Divergence from the original on held-out texts in nats a token, before healing, after "
        f"half of the steps and after all, means over seeds: {'; '.join(said)}."
    )


def beside(tables: Tables) -> Iterator[str]:
    """What became of that of which no loss was established."""
    for case in CASES:
        said = []
        for protocol in PROTOCOLS:
            rest = [task for task in TASKS if task not in lost(tables, case, protocol)]
            told = rows(tables["gains"], case=case, protocol=protocol, task=rest)
            said += [
                f"{TASKS[task]} under `{protocol}` {_over_seeds(one['gain'])}"
                for task in rest
                if (one := rows(told, task=task))["gain"].any()
            ]
        yield (
            f"{_without(case)}, what was not lost in all seeds changes by healing in points, over "
            f"seeds: {joined(said) or 'by nothing'} (the rest by nothing)."
        )


def needed(tables: Tables) -> Iterator[str]:
    """The layers that are needed, by original number, before and after."""
    for case in CASES:
        tasks = lost(tables, case, SAID) or ["two-hops"]
        for task in tasks:
            before, after = (critical_sets(tables, one, task) for one in (ORIGINAL, case))
            new = _new(tables, case, task)
            yield (
                f"{_without(case)}, {TASKS[task]} are lost significantly without layers "
                f"{joined(map(_set, after.values()))} of the healed models (originals: "
                f"{joined(map(_set, before.values()))}){new}."
            )


def _new(tables: Tables, case: str, task: str) -> str:
    """The largest loss at a layer that the original did not need, seed by seed."""
    before, told = critical_sets(tables, ORIGINAL, task), []
    for seed, after in critical_sets(tables, case, task).items():
        new = sorted(set(after) - set(before[seed]))
        every = rows(tables["layers"], case=case, task=task, protocol=SAID, seed=seed, original=new)
        if len(every):
            most = every.loc[every["share_lost"].idxmax()]
            bounds = (100 * most[name] for name in ("share_lost", "share_low", "share_high"))
            told.append(f"layer {most['original']} {interval(*bounds)} % in seed {seed}")
    return f"; of those that the originals do not need, most is lost without {joined(told)}" * bool(
        told
    )


def moved(tables: Tables) -> Iterator[str]:
    """What healed layers bring to the pruned model, and what their return destroys."""
    for case in CASES:
        for task in lost(tables, case, SAID):
            every = rows(tables["transplant"], case=case, task=task)
            if every.empty:
                yield f"{_without(case)}, there is no gain of {TASKS[task]} to move in any seed."
                continue
            alone = rows(every, set="single")
            best = [one.loc[one["share"].idxmax()]
                    for _, one in rows(alone, direction="brings").groupby("seed")]  # fmt: skip
            told = [f"{interval(*(100 * row[n] for n in ('share', 'share_low', 'share_high')))} % "
                    f"(layer {row['original']})" for row in best]  # fmt: skip
            sure = rows(alone, direction="destroys")
            broken = [
                _set(sorted(one.loc[(one["p_run"] < ALPHA) & (one["moved"] > 0), "original"]))
                for _, one in sure.groupby("seed")
            ]
            yield (
                f"{_without(case)}, put into the pruned model, the healed layer that brings most "
                f"of what came back of {TASKS[task]} brings {joined(told)}, significantly in "
                f"{_of([row['p_run'] < ALPHA for row in best])} seeds; put back as they were "
                f"before healing, layers {joined(broken)} destroy it; from the first layer on, "
                f"half of it is there with healed layers up to {joined(cumulative(every))}."
            )


def cumulative(every: pd.DataFrame) -> list[str]:
    """By seed, up to which layer, from the first on, healed layers bring half of the gain."""
    found = []
    for _, one in rows(every, set="from_first", direction="brings").groupby("seed"):
        ends = one.sort_values("original")
        enough = ends.loc[ends["share"] >= HALF, "original"]
        found.append(str(enough.iloc[0]) if len(enough) else "none")
    return found


def read(tables: Tables) -> Iterator[str]:
    """From which layer on the lens reads the answer, and the last position holds it."""
    for what, column, name in (
        ("on top of the logit lens for half of the items", "on_top", "lens"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching"),
    ):  # fmt: skip
        said = []
        for case in CASES:
            for task in lost(tables, case, SAID):
                if len(rows(tables[name], task=task)) == 0:
                    continue
                before, after = (
                    [_first(rows(tables[name], case=host, task=task, seed=seed), column)
                     for seed in sorted(tables[name]["seed"].unique())]
                    for host in (ORIGINAL, case)
                )  # fmt: skip
                said.append(
                    f"{_without(case).lower()}, {TASKS[task]} {', '.join(after)} "
                    f"({', '.join(before)})"
                )
        yield f"The first layer with answers {what}, healed (originals): {'; '.join(said)}."


def depths(tables: Tables) -> Iterator[str]:
    """What the comparison with the originals establishes of depths."""
    for case in CASES:
        told = rows(tables["differences"], case=case, family="depth", axis="computation")
        sure = rows(told, significant=True)
        said = [
            f"{row['capability']}, {row['measure']} by {row['method']} under `{row['protocol']}` "
            f"{interval(row['difference'], row['low'], row['high'], 2)}"
            for row in sure.to_dict("records")
        ]
        yield (
            f"{_without(case)}, of {len(told)} relative depths compared with the originals', "
            f"{len(sure)} differ ({'; '.join(said) or 'none is established'})."
        )


def in_readme(text: str, tables: Tables) -> str:
    """The README with its findings made anew, between its two marks."""
    before, rest = text.split(BEGIN)
    listed = "\n".join(f"- {sentence}" for sentence in findings(tables))
    return f"{before}{BEGIN}\n{listed}\n{END}{rest.split(END)[1]}"


def critical_sets(tables: Tables, case: str, task: str) -> dict[int, list[int]]:
    """By seed, the layers by original number without which a suite loses significantly."""
    found = {}
    told = rows(tables["layers"], case=case, task=task, protocol=SAID)
    for seed, one in told.groupby("seed"):
        sure = one.loc[one["significant"] & (one["share_lost"] > 0), "original"]
        found[int(str(seed))] = sorted(int(layer) for layer in sure)
    return found


def _gains(tables: Tables, case: str, task: str, protocol: str) -> pd.DataFrame:
    found = rows(tables["gains"], case=case, task=task, protocol=protocol)
    return found.sort_values("seed")


def _without(case: str) -> str:
    layers = CASES[case]
    return f"Without layer{'s' * (len(layers) > 1)} {joined(map(str, layers))}"


def _verdict(away: list[bool], back: list[bool]) -> str:
    if all(away):
        return "holds"
    return "does not hold" if all(back) else "holds in part" if any(away) else "is open"


def _first(one: pd.DataFrame, column: str) -> str:
    if one.empty:  # no prompts that the model solves, so nothing to patch between
        return "no pairs"
    enough = one.sort_values("original")
    enough = enough.loc[enough[column] >= HALF, "original"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


def _set(layers: Iterable[int]) -> str:
    return f"{{{', '.join(map(str, layers))}}}"


def _over_seeds(values: pd.Series) -> str:
    return interval(*over_seeds([100 * float(one) for one in values]))


def _percents(values: pd.Series) -> str:
    return ", ".join(number(100 * value) for value in values)


def _bounds(table: pd.DataFrame, name: str, times: float) -> list[str]:
    every = table[[name, f"{name}_low", f"{name}_high"]]
    return [interval(*(times * float(one) for one in row)) for row in every.itertuples(index=False)]


def _count(ways: Sequence[str], way: str) -> str:
    return f"{ways.count(way)} of {len(ways)}"


def _of(values: Sequence[bool] | pd.Series) -> str:
    return f"{sum(map(bool, values))} of {len(values)}"


LEAD = ("lead", "lead_low", "lead_high")
TOLD = (verdict, claims, spare, came_back, course, beside, needed, read, moved, depths)
