"""Work that sequential decisions save, and what they find, beside tests of all items.

Losses in nats are made up here; answers are those of ``layer_claims`` and ``crossing_claims``. The
saved records of SmolLM2 are read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crossing_claims
import layer_claims
import numpy as np
import pandas as pd
from jaxtyping import Bool
from scipy.stats import t as student
from sequential_claims import (
    ALL,
    LEVEL,
    N_LAYERS,
    Losses,
    World,
    decide_world,
    nats_cell,
    of_layers,
    symmetric_evidence,
)

from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.cells import Cell, cells, layer_skips
from layerwise.stats.crossings import CROSSING
from layerwise.stats.inference import holm
from layerwise.stats.items.clusters import mean_errors, paired_p_values
from layerwise.stats.sequential.decisions import Decided
from layerwise.stats.sequential.ordered_pools import ACCURACY, NATS, OrderedPool, family_sizes
from layerwise.stats.sequential.race import rejects, suprema
from layerwise.stats.share_tests.equivalence import no_loss_of_nats_p_values, no_loss_p_values

N_RUNS, N_ORDERS = 100, 20
RECORDS = Path(__file__).parents[1] / "smollm2_profile" / "results" / "records.parquet"


def fixed_verdicts(
    every: Sequence[OrderedPool], measure: str, n_tests: int
) -> dict[str, Bool[np.ndarray, " places"]]:
    """Verdicts of tests of a fixed number of items on all of them, with Holm's correction.

    Needed by nats: Student's t over clusters; by accuracy: exact sign flips. Spare: the page's.
    """
    p: dict[str, list[np.ndarray]] = {NEEDED: [], SPARE: []}
    for pool in (ordered.pool for ordered in every):
        parts = [pool.select_tasks([task]) for task in pool.tasks]
        if measure == NATS:
            assert pool.nats is not None
            error = np.maximum(mean_errors(pool.nats, pool.clusters), 1e-12)
            p[NEEDED].append(student.sf(pool.nats.mean(axis=0) / error, pool.clusters.n - 1))
            spare = [no_loss_of_nats_p_values(part.nats, 0.1, part.clusters) for part in parts]
        else:
            either = paired_p_values(pool.net, pool.clusters) / 2
            p[NEEDED].append(np.where(pool.net.sum(axis=0) > 0, either, 1.0))
            spare = [no_loss_p_values(part.loss, 0.05, part.clusters) for part in parts]
        p[NEEDED][-1] = np.minimum(p[NEEDED][-1] * pool.n_choices, 1.0)
        p[SPARE].append(np.max(spare, axis=0))
    return {question: holm(np.concatenate(parts), n_tests) < LEVEL for question, parts in p.items()}


def _compared(decided: Decided, made: Sequence[Cell], measure: str) -> dict[str, float]:
    """Work and verdicts of the race beside those of fixed tests, as shares of the layers."""
    n_layers = max(len(ordered.layers) for ordered in decided.pools)
    fixed = fixed_verdicts(decided.pools, measure, family_sizes(made, n_layers)[NEEDED])
    found = decided.race
    needed, spare = np.isfinite(found.needed), np.isfinite(found.spare)
    items, start, asked = 0, 0, 0
    for ordered in decided.pools:
        rounds = found.rounds[start : start + len(ordered.layers)]
        asked += int(ordered.n_answers[ordered.own_rounds(rounds) - 1].sum())
        items += len(ordered.pool.loss) * len(ordered.layers)
        start += len(ordered.layers)
    by_fixed = fixed[NEEDED] | fixed[SPARE]
    symmetric = np.nan
    if measure == NATS:
        last = [
            suprema(symmetric_evidence(one.pool.clusters.means(one.pool.nats)))[-1]
            - np.log(one.pool.n_choices)
            for one in decided.pools
        ]
        n_tests = family_sizes(made, n_layers)[NEEDED]
        symmetric = float(rejects(np.maximum(np.concatenate(last), 0), LEVEL, n_tests).mean())
    return {
        "places": len(needed),
        "work": asked / items,
        "needed": float(needed.mean()),
        "needed_symmetric": symmetric,
        "needed_fixed": float(fixed[NEEDED].mean()),
        "spare": float(spare.mean()),
        "spare_fixed": float((fixed[SPARE]).mean()),
        "open": float((~needed & ~spare).mean()),
        "open_fixed": float((~by_fixed).mean()),
        # what fixed tests decide and the race leaves open, and the other way round
        "lost": float((by_fixed & ~needed & ~spare).mean()),
        "won": float(((needed | spare) & ~by_fixed).mean()),
        # one says needed and not spare, the other spare and not needed
        "opposite": float(
            ((needed & ~spare & fixed[SPARE] & ~fixed[NEEDED])
             | (spare & ~needed & fixed[NEEDED] & ~fixed[SPARE])).mean()
        ),
    }  # fmt: skip


def _like_smollm2(rng: np.random.Generator, n: int) -> Losses:
    """Losses whose means and spreads over 30 layers are about those of SmolLM2's suites."""
    means = np.concatenate([[9.0, 4.0, 3.0], np.linspace(-0.1, 1.6, N_LAYERS - 3)])
    return means + np.maximum(0.5, 0.5 * means) * student.rvs(
        4, size=(n, N_LAYERS), random_state=rng
    )


def _mostly_spare(rng: np.random.Generator, n: int) -> Losses:
    """Six layers are needed, and all others cost nothing but some noise."""
    means = np.array([9.0, 4.0, 2.0, 1.0, 0.5, 0.3, *[0.0] * (N_LAYERS - 6)])
    return means + np.maximum(0.1, 0.5 * means) * student.rvs(
        4, size=(n, N_LAYERS), random_state=rng
    )


def _clear(rng: np.random.Generator, n: int) -> Losses:
    """Half of the layers cost a nat, the others nothing."""
    means = np.resize([1.0, 0.0], N_LAYERS)
    return means + np.where(means > 0, 0.7, 0.05) * rng.standard_normal((n, N_LAYERS))


def work_saved(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Work of deciding needed or spare, and verdicts, beside tests of all items.

    Returns:
        ``case``, ``measure``, ``items`` (of a task), ``runs`` (simulated, or orders of the same
        records), the shares of ``_compared``, and ``saved``: 1 over the mean work.
    """
    rows = []
    for n in (100, 400):
        for name, draw in (
            ("half cost a nat, half nothing", _clear),
            ("six are needed, 24 cost nothing", _mostly_spare),
            ("losses like SmolLM2's", _like_smollm2),
        ):
            rng = np.random.default_rng([seed, n, *name.encode()])
            made = [[nats_cell(draw(rng, n))] for _ in range(n_runs)]
            rows.append(_saved(name, NATS, n, made, range(n_runs)))
        base = {"l0": 0.85, "l1": 0.85, "l11": 0.4, "l17": 0.6, "l5": 0.3}
        asked = [
            layer_claims.MadeUpCapability((layer_claims.profile(0.0, **base),), n, protocols=1)
        ]
        rng = np.random.default_rng([seed, n])
        made = [layer_claims.made_up_cells(rng, asked) for _ in range(n_runs)]
        rows.append(_saved("answers: five layers are needed", ACCURACY, n, made, range(n_runs)))
    return pd.concat([pd.DataFrame(rows), saved_records()], ignore_index=True)


def saved_records(n_orders: int = N_ORDERS) -> pd.DataFrame:
    """The same on the saved records of SmolLM2, in several orders of the items."""
    every = [
        cell for cell in cells(layer_skips(pd.read_parquet(RECORDS))) if len(cell.interventions)
    ]
    with_nats = [cell for cell in every if not np.isnan(cell.nats).any()]
    rows = []
    for measure, made in ((NATS, with_nats), (ACCURACY, every)):
        rows.append(
            _saved("SmolLM2-135M, all suites", measure, 100, [made] * n_orders, range(n_orders))
        )
    for cell in with_nats:
        if decide_world([cell], World("", lambda _: [], {NEEDED: of_layers(ALL)}), 0) is None:
            continue  # too little to lose
        name = f"SmolLM2-135M, {cell.task}"
        rows.append(_saved(name, NATS, 100, [[cell]] * n_orders, range(n_orders)))
    return pd.DataFrame(rows)


def crossing_power(n_runs: int = crossing_claims.N_POWER, seed: int = 0) -> pd.DataFrame:
    """Rate at which the planted crossing of ``crossing_claims.power`` is decided, on its data.

    There the answers of both protocols are one sample. Here each protocol is decided by itself.
    """
    rows = []
    for n in (24, 70, 100):
        for points in (20, 40, 60):
            for n_tasks in (1, 2):
                rng = np.random.default_rng([seed, n, points, n_tasks])
                found = 0
                for run in range(n_runs):
                    made = crossing_claims._crossing_cells(rng, n, points / 100, n_tasks)
                    world = World("", lambda _: [], {CROSSING: of_layers(ALL)}, ACCURACY)
                    decided = decide_world(made, world, run)
                    found += decided is not None and _has_planted_crossing(decided)
                about = {"items of a task": n, "points": points, "tasks": n_tasks}
                rows.append({**about, "runs": n_runs, "crossing": found / n_runs})
    return pd.DataFrame(rows)


def _has_planted_crossing(decided: Decided) -> bool:
    """True if layer 17 is found to be particular to reasoning."""
    names = [(one.pool.capability, layer) for one in decided.pools for layer in one.pool.layers]
    first = decided.race.particular(decided.evidence.crossings)
    return any(
        name == ("reasoning", 17) and np.isfinite(number)
        for name, number in zip(names, first, strict=True)
    )


def _saved(
    case: str, measure: str, n: int, runs: Sequence[list[Cell]], seeds: Sequence[int]
) -> dict[str, Any]:
    asked = World(case, lambda _: [], dict.fromkeys((NEEDED, SPARE), of_layers(ALL)), measure)
    compared = [
        _compared(decided, made, measure)
        for made, seed in zip(runs, seeds, strict=True)
        if (decided := decide_world(made, asked, seed)) is not None
    ]
    means = pd.DataFrame(compared).mean()
    about = {"case": case, "measure": measure, "items": n, "runs": len(compared)}
    return about | means.to_dict() | {"saved": 1 / means["work"]}
