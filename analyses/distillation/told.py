"""What the saved tables of this study say, as the sentences of its README.

A test holds the README to these, so that no number there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from drawn import CASES
from scipy.stats import t

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, joined, number

TWO_HOP, LOOK_UP, SAID = "two-hops", "look-up", "generate"
STUDENTS = [case for case in CASES if case != "teacher"]
NAMES = {"equal": "At equal depth", "half": "At half depth", "frozen": "With layers 2 to 4 frozen"}
HALF = 0.5
BEGIN, END = "<!-- findings, made by run.py -->", "<!-- end of the findings -->"
ALPHA = 0.05
Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[str]:
    """All sentences, in the order of the README."""
    return [sentence for tell in TOLD for sentence in tell(tables)]


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of one value per seed."""
    every = np.asarray(values, dtype=float)
    half = t.ppf(0.975, len(every) - 1) * every.std(ddof=1) / np.sqrt(len(every))
    return float(every.mean()), float(every.mean() - half), float(every.mean() + half)


def learned(tables: Tables) -> Iterator[str]:
    """What each student can do after distillation, seed by seed."""
    for case in STUDENTS:
        told = rows(tables["gains"], case=case, task=TWO_HOP, protocol=SAID).sort_values("seed")
        yield (
            f"{NAMES[case]}, {_percents(told['acc_distilled'])} % of {_n(told)} two-hop items are "
            f"right under `generate` (before: {_percents(told['acc_student'])} %, the teachers: "
            f"{_percents(told['acc_teacher'])} %), better than before in "
            f"{_of(told['improved'])} seeds; of the teachers' lead "
            f"{joined(_bounds(told, 'closed', 100))} % are closed."
        )


def by_protocol(tables: Tables) -> Iterator[str]:
    """Under which protocols two hops have signal."""
    signal = rows(tables["signal"], task=TWO_HOP)
    for protocol in ("continuation", "letter"):
        said = [
            f"{CASES[case]}: {_percents(one['accuracy'])} %, signal in {_of(one['signal'])}"
            for case in CASES
            if len(one := rows(signal, case=case, protocol=protocol).sort_values("seed"))
        ]
        yield f"Two hops under `{protocol}` ({'; '.join(said)} seeds)."


def kept(tables: Tables) -> Iterator[str]:
    """What became of look-ups."""
    for case in STUDENTS:
        told = rows(tables["gains"], case=case, task=LOOK_UP, protocol=SAID).sort_values("seed")
        yield (
            f"{NAMES[case]}, look-ups change by {joined(_bounds(told, 'gain', 100))} points "
            f"(worse in {_of(told['worse'])} seeds, better in {_of(told['improved'])})."
        )


def needed(tables: Tables) -> Iterator[str]:
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
            f"{name}, two hops are lost significantly without layers {joined(told)}; layers at the "
            f"teachers' depths (2 to 4 of 8) hold {joined(_bounds(share, 'share', 100))} % of all "
            f"that skipping costs, {interval(*over_seeds(100 * share['share']))} % over seeds."
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
        yield (
            f"**{NAMES[case]}, two hops need layers at other depths than in the teachers, too, in "
            f"{other} of {len(sets)} seeds, layers at the same depths alone in {same}, and "
            f"{len(sets) - same - other} have no signal or no significant layer.**"
        )


def read(tables: Tables) -> Iterator[str]:
    """From which layer on the lens reads the answer, and the last position holds it."""
    for what, column, name in (
        ("on top of the logit lens for half of the items", "on_top", "lens"),
        ("half recovered by patching the stream before it at the last position", "recovered",
         "patching"),
    ):  # fmt: skip
        said = []
        for case in CASES:
            table = rows(tables[name], case=case, task=TWO_HOP)
            first = [_first(one, column) for _, one in table.groupby("seed")]
            said.append(f"{CASES[case]} {', '.join(first) or 'no pairs'}")
        yield f"The first layer with two-hop answers {what}, by seed: {'; '.join(said)}."


def brought(tables: Tables) -> Iterator[str]:
    """What distilled layers bring to the student as it was, and what their return destroys."""
    for case in STUDENTS:
        every = rows(tables["transplant"], case=case)
        if every.empty:
            yield f"{NAMES[case]}, there is no gap to move in any seed."
            continue
        alone = rows(every, set="single")
        best = [one.loc[one["share"].idxmax()]
                for _, one in rows(alone, direction="brings").groupby("seed")]  # fmt: skip
        told = [f"{interval(*(100 * row[n] for n in ('share', 'share_low', 'share_high')))} % "
                f"(layer {row['layer']})" for row in best]  # fmt: skip
        sure = _of([row["p_run"] < ALPHA for row in best])
        yield (
            f"{NAMES[case]}, the layer that brings most of the gain by itself brings "
            f"{joined(told)}, significantly in {sure} seeds; "
            f"a layer carries the gain (it brings and its return destroys, each significantly "
            f"over the run) in {_of(carriers(alone))} seeds; from the first layer on, half of the "
            f"gain is there with layers up to {joined(cumulative(every))}."
        )


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
    """What the comparison with the teachers' seeds establishes of depths."""
    for case in STUDENTS:
        told = rows(tables["differences"], case=case, family="depth", capability="reasoning",
                    axis="computation")  # fmt: skip
        if told.empty:
            yield f"{NAMES[case]}, no depth can be compared with the teachers'."
            continue
        said = [
            f"{row['measure']} by {row['method']} under `{row['protocol']}` "
            f"{interval(row['difference'], row['low'], row['high'], 2)}"
            f"{' (established)' if row['significant'] else ''}"
            for row in told.to_dict("records")
        ]
        yield f"{NAMES[case]}, relative depths minus the teachers': {joined(said)}."


def claims(tables: Tables) -> Iterator[str]:
    """The verdict on what arXiv:2510.02091 says of distillation and of transplanted layers."""
    for case in STUDENTS:
        sets, sure = critical_sets(tables["layers"], case), has_signal(tables["signal"], case)
        n_layers = int(rows(tables["layers"], case=case)["layer"].max()) + 1
        few = [bool(one) and len(one) <= n_layers / 2 for seed, one in sets.items() if sure[seed]]
        alone = rows(tables["transplant"], case=case, set="single", direction="brings")
        enough = [bool((one["share_low"] >= HALF).any()) for _, one in alone.groupby("seed")]
        yield (
            f"{NAMES[case]}: that reasoning comes to need certain layers, half of all or fewer, "
            f"{_holds(few, len(sets))}; that a single transplanted layer recovers half of the "
            f"gain or more {_holds(enough, len(sets))}."
        )


def _holds(found: list[bool], n_seeds: int) -> str:
    if not found:
        return f"has no signal in any of {n_seeds} seeds"
    word = "holds" if all(found) else "does not hold" if not any(found) else "holds in part"
    silent = f", no signal in {n_seeds - len(found)}" if len(found) < n_seeds else ""
    return f"{word} ({_of(found)} seeds{silent})"


def in_readme(text: str, tables: Tables) -> str:
    """The README with its findings made anew, between its two marks."""
    before, rest = text.split(BEGIN)
    listed = "\n".join(f"- {sentence}" for sentence in findings(tables))
    return f"{before}{BEGIN}\n{listed}\n{END}{rest.split(END)[1]}"


def critical_sets(layers: pd.DataFrame, case: str) -> dict[int, list[int]]:
    """By seed, the layers without which two hops are lost significantly under ``generate``."""
    found = {}
    for seed, one in rows(layers, case=case, task=TWO_HOP, protocol=SAID).groupby("seed"):
        sure = one.loc[one["significant"] & (one["share_lost"] > 0), "layer"]
        found[int(str(seed))] = sorted(int(layer) for layer in sure)
    return found


def has_signal(signal: pd.DataFrame, case: str) -> dict[int, bool]:
    """By seed, whether two hops have signal under ``generate``."""
    told = rows(signal, case=case, task=TWO_HOP, protocol=SAID)
    return {int(row["seed"]): bool(row["signal"]) for row in told.to_dict("records")}


def _inside(layer: int, n_layers: int) -> bool:
    """Whether more than half of a layer lies at the teachers' depths, 2/8 to 5/8."""
    overlap = min((layer + 1) / n_layers, 5 / 8) - max(layer / n_layers, 2 / 8)
    return overlap * n_layers >= HALF


def _first(one: pd.DataFrame, column: str) -> str:
    enough = one.sort_values("layer")
    enough = enough.loc[enough[column] >= HALF, "layer"]
    return str(int(enough.iloc[0])) if len(enough) else "none"


def _percents(values: pd.Series) -> str:
    return ", ".join(number(100 * value) for value in values)


def _bounds(table: pd.DataFrame, name: str, times: float) -> list[str]:
    every = table[[name, f"{name}_low" if f"{name}_low" in table else "low",
                   f"{name}_high" if f"{name}_high" in table else "high"]]  # fmt: skip
    return [interval(*(times * float(one) for one in row)) for row in every.itertuples(index=False)]


def _n(table: pd.DataFrame) -> int:
    return int(table["n_items"].iloc[0])


def _of(values: Sequence[bool] | pd.Series) -> str:
    return f"{sum(map(bool, values))} of {len(values)}"


TOLD = (verdict, claims, learned, by_protocol, kept, needed, read, brought, depths)
