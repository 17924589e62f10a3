"""Sentences on healed layers that were put into the pruned model, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from healing_figures import CASES, TASKS
from healing_words import (
    ALPHA,
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

from layerwise.presentation.rows import rows
from layerwise.presentation.wording import interval, join_words, number
from layerwise.stats.signals.power import least_change, least_right


def transplant_sentences(tables: Tables) -> Iterator[str]:
    """Effect of healed layers on the pruned model, and of their return."""
    for case in CASES:
        for task in lost_suites(tables, case, SAID):
            every = rows(tables["transplant"], case=case, task=task)
            if every.empty:
                yield (
                    f"{without_layers_words(case)}, no gain of {TASKS[task]} under "
                    f"`{SAID}` is established in "
                    "any seed, so that no layers were exchanged."
                )
                continue
            alone = rows(every, set="single")
            each = [one for _, one in rows(alone, direction="brings").groupby("seed")]
            sure = [bool(((one["p_run"] < ALPHA) & (one["moved"] > 0)).any()) for one in each]
            gaps = [number(100 * (one["acc_other"] - one["acc_base"]).iloc[0]) for one in each]
            destroys = rows(alone, direction="destroys")
            broken = [
                layer_set(sorted(one.loc[(one["p_run"] < ALPHA) & (one["moved"] > 0), "original"]))
                for _, one in destroys.groupby("seed")
            ]
            yield (
                f"{without_layers_words(case)}, put into the pruned model, the most that a "
                f"single healed layer "
                f"brings of {TASKS[task]} under `{SAID}` is "
                f"{join_words(map(_strongest_layer, each))} of "
                f"{join_words(gaps)} points that came back (bounds over the run), significantly in "
                f"{share_words(sure)} seeds; {_least_detectable(tables, case, task)} of "
                f"{n_items(every)} right are the least that could be significant. Put back as "
                f"they were before healing, layers {join_words(broken)} significantly "
                f"destroy a part "
                f"(over the run); "
                f"from the first layer on, half is there with healed layers up to "
                f"{join_words(cumulative(every))}."
            )


def _strongest_layer(one: pd.DataFrame) -> str:
    """Effect of the layer that moves most, and which it is, or how many are alike."""
    most = one[one["moved"] >= one["moved"].max() - 1e-9]
    bounds = (100 * most[name].max() for name in ("moved", "run_low", "run_high"))
    layers = [int(layer) for layer in most["original"]]
    which = f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers alike"
    return f"{interval(*bounds)} ({which})"


def _least_detectable(tables: Tables, case: str, task: str) -> int:
    """Right answers that can be won, and are above guessing, over all exchanges of a seed."""
    told = case_gains(tables, case, task, SAID)
    n_tests = int(rows(tables["transplant"], case=case).groupby("seed").size().max())
    above = least_right(n_items(told), float(told["chance"].iloc[0]), n_tests)
    return max(above or n_items(told), least_change(n_tests))


def cumulative(every: pd.DataFrame) -> list[str]:
    """By seed, up to which layer, from the first on, healed layers bring half of the gain."""
    found = []
    for _, one in rows(every, set="from_first", direction="brings").groupby("seed"):
        ends = one.sort_values("original")
        enough = ends.loc[ends["share"] >= HALF, "original"]
        found.append(str(enough.iloc[0]) if len(enough) else "none")
    return found
