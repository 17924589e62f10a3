"""Tables of the same questions asked in other ways: scored in steps, and with a passage.

Definitions are in ``docs/statistics.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
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
    cells,
    effects_table,
    scale_of,
)
from layerwise.stats.families.estimate import (
    Ends,
    bounded_columns,
    corrected_within,
    estimate,
    exact_difference_bounds,
    exact_where_alike,
    resampled,
    with_holm,
)
from layerwise.stats.items.clusters import independent_items
from layerwise.stats.share_tests.dissociation import Dissociation, crossed
from layerwise.stats.share_tests.scoring_steps import (
    MARGIN,
    SCORING_STEPS,
    ScoringStep,
    StepAnswers,
    in_steps,
    of_one_draw,
    of_single_layers,
    same_items,
    step_answers,
    step_difference,
    step_records,
)
from layerwise.stats.share_tests.share_bounds import bounded, difference_wide_enough, no_narrower
from layerwise.stats.signals.signal import signals_of
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

_RENAMED = {
    "protocol": "rung", "acc_intact": "intact", "acc": "changed", "acc_diff": "loss",
    "acc_diff_low": "loss_low", "acc_diff_high": "loss_high",
}  # fmt: skip


def ladder_table(records: pd.DataFrame, effects: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """``ladder.parquet``: what changing each layer costs, rung by rung."""
    single = of_single_layers(records)
    known = effects.loc[effects["head"].isna() & (effects["layers"].str.len() == 1)]
    names = {step.protocol: step.name for step in SCORING_STEPS if step.column == "correct"}
    tables = [known.assign(protocol=known["protocol"].map(names))]
    steps = [step_records(single, step) for step in SCORING_STEPS if step.column != "correct"]
    tokens = pd.concat(steps, ignore_index=True)
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
    # Steps that the run asks for, those of rungs without signal as well: of a model that hardly
    # knows the answers, rungs with signal are those on which it was lucky.
    rungs: dict[str, list[str]] = {}
    for step in SCORING_STEPS:
        for task in step_records(single, step)["task"].unique():
            rungs.setdefault(task, []).append(step.name)
    changed = single.loc[~single["kind"].isin(BASELINES), ["kind", "site"]].drop_duplicates()
    n_steps = len(changed) * sum(len(in_steps(of_task)) for of_task in rungs.values())
    steps = with_holm(steps, n_steps)
    steps = with_holm(steps, p="p_other_layers", to="p_other_layers_holm")
    steps = [row | {"other_layers": row["p_other_layers_holm"] < ALPHA} for row in steps]
    whole = pd.concat(layers, ignore_index=True) if layers else frame("dissociations", [])
    return {
        "ladder_steps": frame("ladder_steps", steps),
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


CLOSED, OPEN = _KINDS = ("closed", "open")


def book_tables(
    records: pd.DataFrame, signal: pd.DataFrame, facts: Facts
) -> dict[str, pd.DataFrame]:
    """``books.parquet`` and ``book_pairs.parquet``: what a passage protects from each change.

    Changes are compared only where both tasks have signal under the protocol.
    """
    has = signals_of(signal)
    pairs: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    # answers are compared one by one, which means over draws of examples are not
    comparable = () if has_several_examples(records) else tuple(_pairs(of_one_draw(records)))
    for sides in comparable:
        closed, opened = (next(cells(side)) for side in sides)
        where = {CLOSED: closed.task, OPEN: opened.task, "protocol": closed.protocol}
        known = where | {
            "n_pairs": len(closed.items),
            "n_clusters": closed.clusters.n,
            "n_common": int((closed.intact & opened.intact).sum()),
        }
        for kind, cell in ((CLOSED, closed), (OPEN, opened)):
            floor = cell.floor(facts.chance(cell.task, cell.protocol)).mean()
            known |= {f"acc_{kind}": float(cell.intact.mean()), f"floor_{kind}": float(floor)}
            known[f"signal_{kind}"] = has[cell.task, cell.protocol]
        able = known["signal_closed"] and known["signal_open"]
        places = _comparable(sides, facts) if able else []
        for kind, site, first, second in places:
            turned = crossed(first.answers, second.answers, first.cell.clusters)
            tables.append(_compared(first, second, turned.apart, facts).assign(**where))
            pairs.append(known | {"kind": kind, "site": site, "p": turned.p})
        pairs += [] if places else [known]
    if not tables:
        return {"books": frame("books", []), "book_pairs": frame("book_pairs", pairs)}
    whole = pd.concat(tables, ignore_index=True)
    heads = whole["head"].notna().to_numpy(dtype=bool)
    table = estimate(
        whole, _exact, _KEY, by_rate=heads, n_asked=len(comparable), part=_KEY[:3],
        ends="protected_run_",
    )  # fmt: skip
    table["loses_more"] = table["more"].where(table["significant"], None)
    # Are there changes of both sorts? Corrected over all pairs that were compared.
    tested = [row for row in pairs if "p" in row]
    for pair, row in zip(tested, with_holm(tested), strict=True):
        more = list(rows(table, **{name: pair[name] for name in _KEY})["loses_more"])
        pair |= {f"n_{kind}_more": more.count(kind) for kind in _KINDS}
        pair |= {"p_holm": row["p_holm"], "both_sorts": row["p_holm"] < ALPHA}
    return {"books": conform("books", table), "book_pairs": frame("book_pairs", pairs)}


_KEY = [*_KINDS, "protocol", "kind", "site"]


def _pairs(records: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Records of two tasks that ask the same, without the passage and with it.

    Items of the task with the passage go by the names of those without.
    """
    if "closed_book" not in records:
        return
    named = records.loc[records["closed_book"].notna()]
    for (task, protocol), part in named.groupby(["task", "protocol"], sort=True):
        others = (records["protocol"] == protocol) & (records["task"] != task)
        twins = records.loc[others & records["item"].isin(part["closed_book"])]
        for _, closed in twins.groupby("task", sort=True):
            first = pd.DataFrame(closed)
            of_item = dict(zip(first["item"], first["cluster"], strict=True))
            there = pd.DataFrame(part.loc[part["closed_book"].isin(list(of_item))])
            asked = [of_item[name] for name in there["closed_book"]]
            both = zip(asked, there["cluster"], strict=True)
            if any(a != b for a, b in both if not (pd.isna(a) or pd.isna(b))):
                continue  # two items say that they ask for different things
            item = there["closed_book"].astype(first["item"].dtype)
            cluster = pd.Series(asked, index=there.index, dtype=object)
            yield first, there.assign(item=item, cluster=cluster)


def _comparable(
    sides: tuple[pd.DataFrame, pd.DataFrame], facts: Facts
) -> list[tuple[str, str, StepAnswers, StepAnswers]]:
    """Both tasks' answers under the changes of each kind and site that both were asked under."""
    protocol = str(sides[0]["protocol"].iloc[0])
    as_asked = ScoringStep(protocol, protocol, "correct", protocol)
    answers = [step for records in sides for step in step_answers(records, as_asked, facts.chance)]
    if len(answers) != 2:
        return []
    places = answers[0].cell.interventions[["kind", "site"]].dropna().drop_duplicates()
    both = [(k, s, answers[0].only(k, s), answers[1].only(k, s)) for k, s in places.to_numpy()]
    return [place for place in both if same_items(*place[2:]) and len(place[2].cell.items) > 1]


def _compared(
    first: StepAnswers, second: StepAnswers, tests: Dissociation, facts: Facts
) -> pd.DataFrame:
    cell, common = first.cell, max(tests.n_common, 1)
    # what the items that are right both ways are worth, as independent ones
    n_independent, both = np.zeros(len(first.luck)), first.cell.intact & second.cell.intact
    if both.any():
        lost = ~first.cell.correct[both], ~second.cell.correct[both]
        alone = [lost[0] & ~lost[1], lost[1] & ~lost[0]]
        clusters = cell.clusters.only(both)
        n_independent = np.minimum(*(independent_items(names, clusters) for names in alone))
    table = cell.interventions.assign(
        n_pairs=len(cell.items),
        n_common=tests.n_common,
        only_closed=tests.only_first,
        only_open=tests.only_second,
        lost_both=tests.both,
        luck_closed=first.luck,
        luck_open=second.luck,
        protected=(tests.only_first - tests.only_second) / common if tests.n_common else np.nan,
        p=tests.two_sided,
        more=np.where(tests.p_first <= tests.p_second, CLOSED, OPEN),
        n_independent=n_independent,  # for exact bounds; not saved
        **_bootstrapped(first, second, facts),
    )
    # no narrower than items that the sample would not show allow: each of these loses at most 1
    # one way and gains at most 1 the other
    alone = independent_items(np.zeros((len(cell.items), len(table))), cell.clusters)
    middle, *ends = (table[end].to_numpy(dtype=float) for end in ("difference", "low", "high"))
    low, high = no_narrower((ends[0], ends[1]), exact_where_alike(middle, alone, 2.0))
    return table.assign(low=low, high=high)


def _bootstrapped(first: StepAnswers, second: StepAnswers, facts: Facts) -> dict[str, Any]:
    """Losses in points, shares and nats, and their differences in the same resamples."""
    cell, n = first.cell, len(first.cell.items)
    both = [
        (cell.intact[:, None] * 1.0 - cell.correct, cell.nats, cell.margins)
        for cell in (first.cell, second.cell)
    ]
    *above, loss1, nats1, margin1, loss2, nats2, margin2 = resampled(
        cell.task, cell.clusters, facts.seed, first.above, second.above, *both[0], *both[1]
    )
    loss, nats, margin = (loss1, loss2), (nats1, nats2), (margin1, margin2)
    share = [a / np.where(whole > 0, whole, np.nan) for a, whole in zip(loss, above, strict=True)]
    columns: dict[str, Any] = {}
    for name, values, ends in (
        ("loss", loss, ("difference", "")),
        ("share", share, ("share_difference", "share_")),
        ("nats", nats, ("nats_difference", "nats_")),
        ("margin", margin, ("margin_difference", "margin_")),
    ):
        columns |= {f"{name}_{k}": value[0] for k, value in zip(_KINDS, values, strict=True)}
        columns |= bounded_columns(*ends, values[0] - values[1], n)
    chances = [facts.chance(step.cell.task, step.cell.protocol) for step in (first, second)]
    each = [
        bounded(values, scale_of(step.cell, chance))
        for values, step, chance in zip(share, (first, second), chances, strict=True)
    ]
    apart = (columns["share_low"], columns["share_high"])
    ends = difference_wide_enough(columns["share_difference"], apart, *each)
    low, high = (np.where(np.isfinite(end), end, np.nan) for end in ends)
    return columns | {"share_low": low, "share_high": high}


def _exact(table: pd.DataFrame, n_tests: int) -> Ends:
    """Exact bounds of what a passage protects; nan where no item is right both ways."""
    names = ("only_closed", "only_open", "n_independent", "n_common")
    lost, kept, alone, n = (table[name].to_numpy(dtype=float) for name in names)
    there = np.where(n > 0, n, np.nan)
    low, high = exact_difference_bounds(
        lost * alone / there, kept * alone / there, alone, n_tests=n_tests
    )
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)
