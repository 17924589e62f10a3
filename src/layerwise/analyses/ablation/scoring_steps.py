"""The ladder's tables: what a layer costs on each rung, each step, and whether layers differ.

Definitions are in ``docs/statistics.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.effects import BASELINES, INTACT, NO_LAYERS, cells, effects_table
from layerwise.stats.families.estimate import (
    bounded_columns,
    corrected_within,
    resampled,
    with_holm,
)
from layerwise.stats.share_tests.dissociation import ALPHA, crossed
from layerwise.stats.share_tests.scoring_steps import (
    MARGIN,
    SCORING_STEPS,
    StepAnswers,
    in_steps,
    of_one_draw,
    of_single_layers,
    same_items,
    step_answers,
    step_difference,
    step_records,
)
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

_NAME_OF_PROTOCOL = {rung.protocol: rung.name for rung in SCORING_STEPS if rung.column == "correct"}
_TOKEN_RUNGS = tuple(rung for rung in SCORING_STEPS if rung.column != "correct")
_RENAMED = {
    "protocol": "rung", "acc_intact": "intact", "acc": "changed", "acc_diff": "loss",
    "acc_diff_low": "loss_low", "acc_diff_high": "loss_high",
}  # fmt: skip


def ladder_table(records: pd.DataFrame, effects: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """``ladder.parquet``: what changing each layer costs, rung by rung."""
    single = of_single_layers(records)
    known = effects.loc[effects["head"].isna() & (effects["layers"].str.len() == 1)]
    known = known.assign(protocol=known["protocol"].map(_NAME_OF_PROTOCOL))
    steps = [step_records(single, step) for step in _TOKEN_RUNGS]
    tokens = pd.concat(steps, ignore_index=True)
    tables = [known]
    if len(tokens):
        tables.append(effects_table(tokens, _chance(facts), facts.seed))
    table = pd.concat(tables, ignore_index=True).rename(columns=_RENAMED).assign(unit="accuracy")
    choice = table.loc[table["rung"] == "choice", ["task", "kind", "site", "signal"]]
    signal = {tuple(where): bool(sure) for *where, sure in choice.drop_duplicates().to_numpy()}
    every = pd.concat([table, *_margins(single, signal, facts.seed)], ignore_index=True)
    # one rung makes no ladder
    return conform("ladder", every) if len(set(every["rung"])) > 1 else frame("ladder", [])


def _chance(facts: Facts) -> Any:
    """Stated chance on a rung; 0 where the task states none, so that the controls decide."""
    of_rung = {rung.name: rung.guessing for rung in SCORING_STEPS}
    return lambda task, rung: facts.task(task).chance.get(of_rung[rung], 0.0)


def _margins(
    records: pd.DataFrame, signal: dict[tuple[Any, ...], bool], seed: int
) -> Iterable[pd.DataFrame]:
    """The margin's rows: means in nats, of tasks whose choice has signal or has none alike."""
    of_choice = records.loc[(records["protocol"] == "continuation") & records["margin"].notna()]
    for cell in cells(of_choice) if len(of_choice) else ():
        if not len(cell.interventions):
            continue
        values = of_choice.loc[of_choice["task"] == cell.task]
        by_item = {
            name: values.loc[values["kind"] == name].set_index("item")["margin"].reindex(cell.items)
            for name in (INTACT, NO_LAYERS)
        }
        intact, floor = (by_item[name].to_numpy(dtype=float) for name in (INTACT, NO_LAYERS))
        n = len(intact)
        above, lost = resampled(cell.task, cell.clusters, seed, intact - floor, cell.margins)
        share = lost / np.where(above > 0, above, np.nan)
        generator = stats.generator(seed, cell.task, MARGIN)
        p = stats.sign_flip_p_values(cell.clusters.sums(cell.margins), seed=generator)
        table = cell.interventions.assign(
            task=cell.task, capability=cell.capability, rung=MARGIN, unit="nats", n_items=n,
            intact=intact.mean(), changed=intact.mean() - lost[0], floor=floor.mean(), p=p,
            **bounded_columns("loss", "loss_", lost, n),
            **bounded_columns("share_lost", "share_", share, n),
        )  # fmt: skip
        table["p_holm"] = corrected_within(table, ["kind", "site"])
        places = zip(table["kind"], table["site"], strict=True)
        table["signal"] = [signal.get((cell.task, *place), False) for place in places]
        table["significant"] = table["signal"] & (table["p_holm"] < ALPHA)
        yield table


def step_tables(
    records: pd.DataFrame, ladder: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``ladder_steps.parquet`` and ``dissociations.parquet``: rung against rung.

    Only rungs that have signal are compared, of the same items.
    """
    steps: list[dict[str, Any]] = []
    layers: list[pd.DataFrame] = []
    single = of_one_draw(of_single_layers(records))
    every = {
        (step.cell.task, rung.name): step
        for rung in SCORING_STEPS
        for step in step_answers(single, rung, _chance(facts))
    }
    with_signal = ladder.loc[ladder["signal"] & (ladder["rung"] != MARGIN)]
    for (task, kind, site), part in with_signal.groupby(["task", "kind", "site"], sort=False):
        there = set(part["rung"])
        answers = {
            rung.name: every[task, rung.name].only(kind, site)
            for rung in SCORING_STEPS
            if rung.name in there and (task, rung.name) in every
        }
        if not any(len(step.cell.interventions) for step in answers.values()):
            continue  # changes with several draws
        shares = {name: step.share(facts.seed) for name, step in answers.items()}
        where = {"task": task, "capability": part["capability"].iloc[0], "kind": kind, "site": site}
        for first, second in in_steps(list(answers)):
            both = answers[first], answers[second]
            if same_items(*both) and len(both[0].cell.items) > 1:
                step, by_layer = _step(*both, (shares[first], shares[second]), facts.seed)
                follows = (first, second) in pairwise(answers)
                steps.append(where | step | {"next_rung": follows})
                layers.append(by_layer.assign(**where))
    steps = with_holm(steps, _n_steps(single))
    steps = with_holm(steps, p="p_other_layers", to="p_other_layers_holm")
    steps = [row | {"other_layers": row["p_other_layers_holm"] < ALPHA} for row in steps]
    whole = pd.concat(layers, ignore_index=True) if layers else frame("dissociations", [])
    return {
        "ladder_steps": frame("ladder_steps", steps),
        "dissociations": conform("dissociations", whole),
    }


def _n_steps(records: pd.DataFrame) -> int:
    """How many steps a run asks for, those of rungs without signal as well.

    Of a model that hardly knows the answers, rungs with signal are those on which it was lucky.
    """
    steps: dict[str, list[str]] = {}
    for step in SCORING_STEPS:
        for task in step_records(records, step)["task"].unique():
            steps.setdefault(task, []).append(step.name)
    changed = records.loc[~records["kind"].isin(BASELINES), ["kind", "site"]].drop_duplicates()
    return len(changed) * sum(len(in_steps(rungs)) for rungs in steps.values())


def _step(
    first: StepAnswers,
    second: StepAnswers,
    shares: tuple[Float[np.ndarray, "draws 1"], Float[np.ndarray, "draws 1"]],
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The comparison of two steps, and of each layer under both."""
    cell = first.cell
    difference, low, high, p = step_difference(first, second, shares, seed)
    turned = crossed(first.answers, second.answers, cell.clusters)
    tests = turned.apart.over_layers
    names = {"first": first.cell.protocol, "second": second.cell.protocol}
    layers = cell.interventions["layer"].to_numpy(dtype=int)
    more = [np.flatnonzero(p < ALPHA) for p in (tests.p_first, tests.p_second)]
    step = names | {
        "n_items": len(cell.items),
        "accuracy_first": float(first.cell.intact.mean()),
        "accuracy_second": float(second.cell.intact.mean()),
        "share_first": float(shares[0][0, 0]),
        "share_second": float(shares[1][0, 0]),
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "n_common": tests.n_common,
        "layers_first": sorted(layers[more[0]].tolist()),
        "layers_second": sorted(layers[more[1]].tolist()),
        "p_other_layers": turned.p,
        "layer_first": None if turned.first is None else int(layers[turned.first]),
        "layer_second": None if turned.second is None else int(layers[turned.second]),
    }
    by_layer = pd.DataFrame(
        {
            "layer": layers,
            "only_first": tests.only_first,
            "only_second": tests.only_second,
            "lost_both": tests.both,
            "luck_first": first.answers.luck,
            "luck_second": second.answers.luck,
            "p_first": tests.p_first,
            "p_second": tests.p_second,
        }
    ).assign(n_common=tests.n_common, **names)
    return step, by_layer
