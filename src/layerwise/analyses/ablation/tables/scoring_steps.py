"""Tables of the same questions scored in steps, and asked with a passage and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.presentation.rows import rows
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import (
    ALPHA,
    BASELINES,
    INTACT,
    NO_LAYERS,
    cell_scale,
    cells,
    effects_table,
)
from layerwise.stats.families.estimate import (
    Ends,
    bootstrap_means,
    bounded_columns,
    equal_value_bounds,
    estimate,
    exact_difference_bounds,
)
from layerwise.stats.families.multiplicity import correct_rows, correct_within
from layerwise.stats.items.clusters import independent_items
from layerwise.stats.share_tests.dissociation import Dissociation, crossing_test
from layerwise.stats.share_tests.scoring_steps import (
    MARGIN,
    SCORING_STEPS,
    STEPS,
    ScoringStep,
    StepAnswers,
    in_steps,
    same_items,
    single_draw_records,
    single_layer_records,
    step_answers,
    step_difference,
    step_records,
)
from layerwise.stats.share_tests.share_bounds import (
    bound_share,
    difference_wide_enough,
    no_narrower,
)
from layerwise.stats.signals.signal import signals_from_table
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

from .saved_effects import single_layers

_COLUMNS = {
    "protocol": "rung", "acc_intact": "intact", "acc": "changed", "acc_diff": "loss",
    "acc_diff_low": "loss_low", "acc_diff_high": "loss_high",
}  # fmt: skip


def scoring_steps_table(records: pd.DataFrame, effects: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """``ladder``: what changing each layer costs at each scoring step."""
    single = single_layer_records(records)
    known = single_layers(effects)
    names = {step.protocol: step.name for step in SCORING_STEPS if step.column == "correct"}
    tables = [known.assign(protocol=known["protocol"].map(names.get))]
    of_tokens = [step_records(single, step) for step in SCORING_STEPS if step.column != "correct"]
    tokens = pd.concat(of_tokens, ignore_index=True)
    if len(tokens):
        tables.append(effects_table(tokens, _chance(facts), facts.seed))
    table = pd.concat(tables, ignore_index=True).rename(columns=_COLUMNS).assign(unit="accuracy")
    with_signal = set(rows(table, rung="choice", signal=True)["task"])
    whole = pd.concat([table, *_margins(single, with_signal, facts.seed)], ignore_index=True)
    several = len(set(whole["rung"])) > 1
    return conform("ladder", whole) if several else frame("ladder", [])


def _chance(facts: Facts) -> Callable[[str, str], float]:
    """Stated chance at a step; 0 where the task states none, so that the controls decide."""
    protocols = {step.name: step.guessing for step in SCORING_STEPS}
    return lambda task, step: facts.task(task).chance.get(protocols[step], 0.0)


def _margins(records: pd.DataFrame, with_signal: set[str], seed: int) -> Iterator[pd.DataFrame]:
    """The margin's rows: means in nats; a task has signal there if its choice has."""
    of_choice = records.loc[(records["protocol"] == "continuation") & records["margin"].notna()]
    baselines = rows(of_choice, kind=[INTACT, NO_LAYERS])
    for cell in cells(of_choice) if len(of_choice) else ():
        if not len(cell.interventions):
            continue
        by_item = rows(baselines, task=cell.task).pivot(
            index="item", columns="kind", values="margin"
        )
        of_items = by_item.reindex(index=cell.items, columns=[INTACT, NO_LAYERS])
        intact, floor = of_items.to_numpy(dtype=float).T
        above, lost = bootstrap_means(cell.task, cell.clusters, seed, intact - floor, cell.margins)
        share, n = lost / np.where(above > 0, above, np.nan), len(intact)
        generator = stats.generator(seed, cell.task, MARGIN)
        table = cell.interventions.assign(
            task=cell.task, capability=cell.capability, rung=MARGIN, unit="nats", n_items=n,
            intact=intact.mean(), changed=intact.mean() - lost[0], floor=floor.mean(),
            p=stats.sign_flip_p_values(cell.clusters.sums(cell.margins), seed=generator),
            signal=cell.task in with_signal,
            **bounded_columns("loss", "loss_", lost, n),
            **bounded_columns("share_lost", "share_", share, n),
        )  # fmt: skip
        table["p_holm"] = correct_within(table, ["kind", "site"])
        yield table.assign(significant=table["signal"] & (table["p_holm"] < ALPHA))


def compare_steps(
    records: pd.DataFrame, scores: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``ladder_steps`` and ``dissociations``: steps with signal, compared on the same items."""
    compared: list[dict[str, Any]] = []
    layers: list[pd.DataFrame] = []
    single, chance = single_draw_records(single_layer_records(records)), _chance(facts)
    every = [step for each in SCORING_STEPS for step in step_answers(single, each, chance)]
    with_signal = scores.loc[scores["signal"] & (scores["rung"] != MARGIN)]
    for (task, kind, site), part in with_signal.groupby(["task", "kind", "site"], sort=False):
        names = set(part["rung"])
        chosen = [step for step in every if step.cell.task == task and step.cell.protocol in names]
        answers = {step.cell.protocol: step.select_changes(kind, site) for step in chosen}
        # none of changes with several draws
        answers = {name: step for name, step in answers.items() if len(step.luck)}
        shares = {name: step.share(facts.seed) for name, step in answers.items()}
        where = {"task": task, "capability": part["capability"].iloc[0], "kind": kind, "site": site}
        for first, second in in_steps(list(answers)):
            both = answers[first], answers[second]
            if same_items(*both) and len(both[0].cell.items) > 1:
                row, by_layer = _step(*both, (shares[first], shares[second]), facts.seed)
                compared.append(where | row | {"next_rung": (first, second) in pairwise(answers)})
                layers.append(by_layer.assign(**where))
    # All that the run asked for are tested, without signal too: of a model that hardly knows the
    # answers, steps with signal are those on which it was lucky.
    asked = {
        (task, step.name)
        for step in SCORING_STEPS
        for task in step_records(single, step)["task"].unique()
    }
    pairs = product(set(single["task"]), STEPS)
    n_pairs = sum({(task, first), (task, second)} <= asked for task, (first, second) in pairs)
    changed = single.loc[~single["kind"].isin(BASELINES), ["kind", "site"]].drop_duplicates()
    compared = correct_rows(compared, len(changed) * n_pairs)
    compared = correct_rows(compared, p="p_other_layers", to="p_other_layers_holm")
    compared = [row | {"other_layers": row["p_other_layers_holm"] < ALPHA} for row in compared]
    whole = pd.concat(layers, ignore_index=True) if layers else frame("dissociations", [])
    return {
        "ladder_steps": frame("ladder_steps", compared),
        "dissociations": conform("dissociations", whole),
    }


def _step(
    first: StepAnswers,
    second: StepAnswers,
    shares: tuple[Float[np.ndarray, "draws 1"], Float[np.ndarray, "draws 1"]],
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The comparison of two steps, and of each layer under both."""
    cell = first.cell
    difference, low, high, p = step_difference(first, second, shares, seed)
    turned = crossing_test(first.answers, second.answers, cell.clusters)
    tests, names = (
        turned.apart.over_layers,
        {"first": cell.protocol, "second": second.cell.protocol},
    )
    layers = cell.interventions["layer"].to_numpy(dtype=int)
    row = names | {"n_items": len(cell.items), "n_common": tests.n_common}
    row |= {"difference": difference, "low": low, "high": high, "p": p}
    row |= {"p_other_layers": turned.p}
    for name, step, share, p_layers, clearest in (
        ("first", first, shares[0], tests.p_first, turned.first),
        ("second", second, shares[1], tests.p_second, turned.second),
    ):
        row |= {
            f"accuracy_{name}": float(step.cell.intact.mean()),
            f"share_{name}": float(share[0, 0]),
            f"layers_{name}": sorted(layers[p_layers < ALPHA].tolist()),
            f"layer_{name}": None if clearest is None else int(layers[clearest]),
        }
    by_layer = pd.DataFrame(
        {
            "layer": layers,
            "only_first": tests.only_first,
            "only_second": tests.only_second,
            "lost_both": tests.both,
            "luck_first": first.luck,
            "luck_second": second.luck,
            "p_first": tests.p_first,
            "p_second": tests.p_second,
        }
    ).assign(n_common=tests.n_common, **names)
    return row, by_layer


CLOSED, OPEN = _WAYS = ("closed", "open")
_PAIR = [*_WAYS, "protocol"]
_KEY = [*_PAIR, "kind", "site"]


def with_passages(
    records: pd.DataFrame, signal: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``books`` and ``book_pairs``: what a passage protects, where both tasks have signal."""
    has = signals_from_table(signal)
    pairs: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    # answers are compared one by one, which means over draws of examples are not
    comparable = (
        () if has_several_examples(records) else tuple(_pairs(single_draw_records(records)))
    )
    for sides in comparable:
        closed, opened = (next(cells(side)) for side in sides)
        where = {CLOSED: closed.task, OPEN: opened.task, "protocol": closed.protocol}
        pair: dict[str, Any] = where | {
            "n_pairs": len(closed.items),
            "n_clusters": closed.clusters.n,
            "n_common": int((closed.intact & opened.intact).sum()),
        }
        for way, cell in ((CLOSED, closed), (OPEN, opened)):
            floor = cell.floor(facts.chance(cell.task, cell.protocol)).mean()
            pair |= {f"acc_{way}": float(cell.intact.mean()), f"floor_{way}": float(floor)}
            pair[f"signal_{way}"] = has[cell.task, cell.protocol]
        places = _comparable(sides, facts) if pair["signal_closed"] and pair["signal_open"] else []
        for kind, site, first, second in places:
            turned = crossing_test(first.answers, second.answers, first.cell.clusters)
            tables.append(_compare_two_steps(first, second, turned.apart, facts).assign(**where))
            pairs.append(pair | {"kind": kind, "site": site, "p": turned.p})
        pairs += [] if places else [pair]
    if not tables:
        return {"books": frame("books", []), "book_pairs": frame("book_pairs", pairs)}
    whole = pd.concat(tables, ignore_index=True)
    heads = whole["head"].notna().to_numpy(dtype=bool)
    n_pairs, ends = len(comparable), "protected_run_"
    table = estimate(whole, _exact, _KEY, by_rate=heads, n_asked=n_pairs, part=_PAIR, ends=ends)
    table["loses_more"] = table["more"].where(table["significant"], None)
    # Are there changes of both sorts? Corrected over all pairs that were compared.
    pairs = correct_rows(pairs)
    for pair in (row for row in pairs if "p" in row):
        more = list(rows(table, **{name: pair[name] for name in _KEY})["loses_more"])
        pair |= {f"n_{way}_more": more.count(way) for way in _WAYS}
        pair["both_sorts"] = pair["p_holm"] < ALPHA
    return {"books": conform("books", table), "book_pairs": frame("book_pairs", pairs)}


def _pairs(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Records of two tasks that ask the same, without and with the passage, with equal items."""
    if "closed_book" not in records:
        return
    named = records.loc[records["closed_book"].notna()]
    for (task, protocol), opened in named.groupby(["task", "protocol"], sort=True):
        others = (records["protocol"] == protocol) & (records["task"] != task)
        twins = records.loc[others & records["item"].isin(opened["closed_book"])]
        for _, closed in twins.groupby("task", sort=True):
            first = pd.DataFrame(closed)
            clusters = first.drop_duplicates("item").set_index("item")["cluster"]
            second = pd.DataFrame(opened.loc[opened["closed_book"].isin(clusters.index)])
            item = second["closed_book"].astype(first["item"].dtype)
            cluster = pd.Series(list(clusters[item]), index=second.index, dtype=object)
            differs = (cluster != second["cluster"]) & cluster.notna() & second["cluster"].notna()
            if not differs.any():  # else two items say that they ask for different things
                yield first, second.assign(item=item, cluster=cluster)


def _comparable(
    sides: tuple[pd.DataFrame, pd.DataFrame], facts: Facts
) -> list[tuple[str, str, StepAnswers, StepAnswers]]:
    """Both tasks' answers under each kind and site of change that both were asked under."""
    protocol = str(sides[0]["protocol"].iloc[0])
    as_scored = ScoringStep(protocol, protocol, "correct", protocol)
    answers = [step for side in sides for step in step_answers(side, as_scored, facts.chance)]
    if len(answers) != 2:
        return []
    places = answers[0].cell.interventions[["kind", "site"]].dropna().drop_duplicates()
    both = [
        (k, s, answers[0].select_changes(k, s), answers[1].select_changes(k, s))
        for k, s in places.to_numpy()
    ]
    return [place for place in both if same_items(*place[2:]) and len(place[2].cell.items) > 1]


def _compare_two_steps(
    first: StepAnswers, second: StepAnswers, tests: Dissociation, facts: Facts
) -> pd.DataFrame:
    cell, common = first.cell, first.cell.intact & second.cell.intact
    # what the items that are right both ways are worth, as independent ones
    n_independent = np.zeros(len(first.luck))
    if common.any():
        lost = ~first.cell.correct[common], ~second.cell.correct[common]
        clusters = cell.clusters.select_items(common)
        alone = (lost[0] & ~lost[1], lost[1] & ~lost[0])
        n_independent = np.minimum(*(independent_items(items, clusters) for items in alone))
    net = tests.only_first - tests.only_second
    table = cell.interventions.assign(
        n_pairs=len(cell.items),
        n_common=tests.n_common,
        only_closed=tests.only_first,
        only_open=tests.only_second,
        lost_both=tests.both,
        luck_closed=first.luck,
        luck_open=second.luck,
        protected=net / tests.n_common if tests.n_common else np.nan,
        p=tests.two_sided_p,
        more=np.where(tests.p_first <= tests.p_second, CLOSED, OPEN),
        n_independent=n_independent,  # for exact bounds; not saved
        **_bootstrap_differences(first, second, facts),
    )
    # no narrower than items that the sample would not show allow: each of these loses at most 1
    # one way and gains at most 1 the other
    unseen = independent_items(np.zeros((len(cell.items), len(table))), cell.clusters)
    middle, *ends = (table[end].to_numpy(dtype=float) for end in ("difference", "low", "high"))
    low, high = no_narrower((ends[0], ends[1]), equal_value_bounds(middle, unseen, 2.0))
    return table.assign(low=low, high=high)


def _bootstrap_differences(first: StepAnswers, second: StepAnswers, facts: Facts) -> dict[str, Any]:
    """Losses in points, shares and nats, and their differences in the same resamples."""
    cell, sides, n = first.cell, (first, second), len(first.cell.items)
    values = [(s.cell.change, s.cell.nats, s.cell.margins) for s in sides]
    *above, loss1, nats1, margin1, loss2, nats2, margin2 = bootstrap_means(
        cell.task, cell.clusters, facts.seed, first.above, second.above, *values[0], *values[1]
    )
    loss = (loss1, loss2)
    share = [a / np.where(whole > 0, whole, np.nan) for a, whole in zip(loss, above, strict=True)]
    columns: dict[str, Any] = {}
    for name, draws, difference, ends in (
        ("loss", loss, "difference", ""),
        ("share", share, "share_difference", "share_"),
        ("nats", (nats1, nats2), "nats_difference", "nats_"),
        ("margin", (margin1, margin2), "margin_difference", "margin_"),
    ):
        columns |= {f"{name}_{way}": value[0] for way, value in zip(_WAYS, draws, strict=True)}
        columns |= bounded_columns(difference, ends, draws[0] - draws[1], n)
    each = [
        bound_share(draws, cell_scale(s.cell, facts.chance(s.cell.task, s.cell.protocol)))
        for draws, s in zip(share, sides, strict=True)
    ]
    apart = (columns["share_low"], columns["share_high"])
    ends = difference_wide_enough(columns["share_difference"], apart, *each)
    low, high = (np.where(np.isfinite(end), end, np.nan) for end in ends)
    return columns | {"share_low": low, "share_high": high}


def _exact(table: pd.DataFrame, n_tests: int) -> Ends:
    """Exact bounds of what a passage protects; nan where no item is right both ways."""
    names = ("only_closed", "only_open", "n_independent", "n_common")
    lost, kept, alone, n = (table[name].to_numpy(dtype=float) for name in names)
    known = np.where(n > 0, n, np.nan)
    low, high = exact_difference_bounds(
        lost * alone / known, kept * alone / known, alone, n_tests=n_tests
    )
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)
