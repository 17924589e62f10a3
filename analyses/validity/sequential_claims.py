"""Rates of false sequential decisions, whenever one stops.

Losses in nats are made up here; answers are those of ``layer_claims`` and ``crossing_claims``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import crossing_claims
import layer_claims
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import t as student

from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.inference import exact_interval, holm
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.sequential.decisions import Decided, decide
from layerwise.stats.sequential.ordered_pools import ACCURACY, NATS, family_sizes
from layerwise.stats.sequential.race import crossing_suprema, rejects, suprema
from layerwise.stats.signals.signal import signals

N_LAYERS, N_RUNS, LEVEL = 30, 1000, 0.05
Losses = Float[np.ndarray, "items layers"]
Draw = Callable[[np.random.Generator, int], Losses]
ALL = np.ones(N_LAYERS, dtype=bool)


def nats_cell(
    nats: Losses, number: int = 0, protocol: str = "continuation", cluster: int = 1
) -> Cell:
    """A task whose items lose nats under each layer; items of a cluster are next to each other."""
    n, n_layers = nats.shape
    right = np.ones((n, n_layers), dtype=bool)
    labels = [f"{number} {i // cluster}" if cluster > 1 else None for i in range(n)]
    name = f"capability {number}"
    return Cell(
        f"task {number}", name, protocol, pd.DataFrame({"layer": np.arange(n_layers)}),
        right[:, 0], right, nats, nats, tuple(map(str, range(n))), Clusters.from_labels(labels),
    )  # fmt: skip


class World(NamedTuple):
    """A made-up run, and which verdicts are false of it."""

    name: str
    make: Callable[[np.random.Generator], list[Cell]]
    false: Mapping[str, Callable[[Decided], Bool[np.ndarray, " hypotheses"]]]
    measure: str = NATS
    gate: bool = False


def of_layers(
    false: Bool[np.ndarray, " layers"],
) -> Callable[[Decided], Bool[np.ndarray, " places"]]:
    """The same layers of every pool."""
    return lambda decided: np.concatenate([false[pool.pool.layers] for pool in decided.pools])


def _nats_world(
    name: str, draw: Draw, n: int = 100, cluster: int = 1, **false: np.ndarray
) -> World:
    return World(
        name,
        lambda rng: [nats_cell(draw(rng, n), cluster=cluster)],
        {question: of_layers(which) for question, which in false.items()},
    )


def normal(*means: float, spread: float = 0.5) -> Draw:
    """Normal losses with the given means, repeated over the layers."""
    mean = np.resize(means, N_LAYERS)
    return lambda rng, n: mean + spread * rng.standard_normal((n, N_LAYERS))


def rare(share: float, loss: float, other: float = 0.0) -> Draw:
    """A share of the items loses much, and all others the same."""
    return lambda rng, n: np.where(rng.random((n, N_LAYERS)) < share, loss, other)


def _heavy(rng: np.random.Generator, n: int) -> Losses:
    return student.rvs(1.5, size=(n, N_LAYERS), random_state=rng)


def _unequal(rng: np.random.Generator, n: int) -> Losses:
    """Items that differ in difficulty: some lose and gain much under all layers, most little."""
    scale = np.exp(rng.normal(-1.0, 1.5, (n, 1)))
    return scale * rng.standard_normal((n, N_LAYERS))


def _alike(rng: np.random.Generator, n: int) -> Losses:
    shared = rng.standard_normal((n, 1))
    return 0.5 * (0.95 * shared + 0.3 * rng.standard_normal((n, N_LAYERS)))


def _clustered(mean: float) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> Losses:
        own = rng.standard_normal((n // 5, N_LAYERS)).repeat(5, axis=0)
        return np.clip(
            mean + 0.4 * own + 0.05 * rng.standard_normal((n, N_LAYERS)), mean - 0.9, 1.0
        )

    return draw


def _at_margin(rng: np.random.Generator, n: int) -> Losses:
    return rng.uniform(-0.3, 0.5, (n, N_LAYERS))


def _capabilities(rng: np.random.Generator) -> list[Cell]:
    return [
        nats_cell(0.5 * rng.standard_normal((100, N_LAYERS)), number, protocol)
        for number in range(4)
        for protocol in ("continuation", "generate")
    ]


def nats_worlds() -> list[World]:
    """Worlds in which what layers cost in nats is known."""
    strong = np.arange(N_LAYERS) < 3
    weak = np.arange(N_LAYERS) % 2 == 0
    few, many = (*[2.0] * 3, *[0.0] * 27), (0.1, 0.0)
    limit = (0.1 + 1e-9, 1.0)  # rare losses whose mean is the margin, just
    return [
        _nats_world("nothing is needed", normal(0.0), needed=ALL),
        _nats_world("nothing is needed, 400 items", normal(0.0), 400, needed=ALL),
        _nats_world("3 of 30 layers cost 2 nats", normal(*few), needed=~strong, spare=strong),
        _nats_world("half of the layers cost 0.1 nats", normal(*many, spread=0.15), 200,
                    needed=~weak, spare=weak),
        _nats_world("all cost the margin, evenly", _at_margin, 200, spare=ALL),
        _nats_world("a tenth of the items loses 1 nat", rare(*limit), 200, spare=ALL),
        _nats_world("a tenth gains 0.9 nats, others lose 0.1", rare(0.1, -0.9, 0.1), 200,
                    needed=ALL),
        _nats_world("a tenth loses 0.9 nats, others gain 0.1", rare(0.1, 0.9, -0.1), 200,
                    needed=ALL),
        _nats_world("heavy tails (t with 1.5 degrees)", _heavy, needed=ALL),
        _nats_world("items of unequal difficulty", _unequal, needed=ALL),
        _nats_world("layers nearly alike", _alike, needed=ALL),
        _nats_world("clusters of 5, nothing is needed", _clustered(0.0), 200, 5, needed=ALL),
        _nats_world("clusters of 5, all cost the margin", _clustered(0.1), 400, 5, spare=ALL),
        World("4 capabilities, 2 protocols, nothing is needed", _capabilities,
              {NEEDED: of_layers(ALL)}),
    ]  # fmt: skip


def answer_worlds() -> list[World]:
    """Worlds in which what layers cost in answers is known."""
    known = {world.name: world for world in layer_claims.worlds()}

    def of_answers(name: str, question: str) -> World:
        asked = known[name].asked
        return World(
            f"answers: {name}",
            lambda rng: layer_claims.made_up_cells(rng, asked),
            {question: of_layers(ALL)},
            ACCURACY,
            gate=question == NEEDED,
        )

    ceiling = [layer_claims.MadeUpCapability((layer_claims.profile(0.05),), 200, 1.0, 1, 0.0)] * 2
    return [
        of_answers("nothing is needed, n = 100", NEEDED),
        of_answers("nothing is needed, clusters of 5", NEEDED),
        of_answers("right in 33 % for a chance of 25 %", NEEDED),
        of_answers("loss of the margin, n = 200", SPARE),
        of_answers("loss of the margin, clusters of 5", SPARE),
        World("answers: all right, loss of the margin, n = 200",
              lambda rng: layer_claims.made_up_cells(rng, ceiling),
              {SPARE: of_layers(ALL)}, ACCURACY),
    ]  # fmt: skip


def crossing_worlds() -> list[World]:
    """Worlds in which one order of layers explains capabilities, so that no layers cross."""
    known = {world.name: world for world in crossing_claims.one_order_worlds()}
    found = []
    for name in ("margins of 2 and 4 nats", "items unlike: spread 1 and 4 nats", "clusters of 5"):
        world = known[name]
        found.append(
            World(
                f"one order: {name}",
                lambda rng, world=world: crossing_claims.made_up_cells(
                    rng, world.asked, world.n, world.cluster
                ),
                {CROSSING: lambda decided: np.ones(decided.evidence.crossings.more.shape[1], bool)},
                ACCURACY,
            )
        )
    return [*found, found[0]._replace(name="one order, in nats, 8 layers", measure=NATS,
                                      make=_one_order_in_nats)]  # fmt: skip


def _one_order_in_nats(rng: np.random.Generator) -> list[Cell]:
    """Losses of the margins of an easy and a hard capability without each layer, as nats."""
    world = next(
        w for w in crossing_claims.one_order_worlds() if w.name == "margins of 2 and 4 nats"
    )
    made = crossing_claims.made_up_cells(rng, world.asked, world.n)
    few = np.arange(N_LAYERS) % 4 == 0
    return [
        cell._replace(nats=cell.margins).select_interventions(np.flatnonzero(few)) for cell in made
    ]


def _opposite_tasks(rng: np.random.Generator) -> list[Cell]:
    """A capability of two tasks, of which one loses under every layer what the other gains."""
    return [
        nats_cell(sign * 0.5 + 0.3 * rng.standard_normal((100, N_LAYERS)), 0)._replace(task=name)
        for name, sign in (("loses", 1), ("gains", -1))
    ]


def mixed_worlds() -> list[World]:
    """Worlds of which no single item is like the mean: the order of the items mixes the tasks."""
    return [World("one task loses what another gains", _opposite_tasks, {NEEDED: of_layers(ALL)})]


def every_world() -> list[World]:
    """All worlds; a new one goes to the end, so that the others are drawn as before."""
    return [*nats_worlds(), *answer_worlds(), *crossing_worlds(), *mixed_worlds()]


def false_rates(n_runs: int = N_RUNS, seed: int = 0) -> pd.DataFrame:
    """Rate at which anything false is decided in a run, of each question.

    Returns:
        ``world``, ``question``, ``runs``, ``false`` (runs with a false verdict of the race, in
        rounds of 8 items), ``rate``, ``low``, ``high`` (exact 95 % bounds), and the same of
        ``worst``: runs with a false verdict at any round, if no layer ever leaves. No rule of
        stopping after rounds has more of them.
    """
    rows = [
        row
        for number, world in enumerate(every_world())
        for row in world_rates(world, n_runs, np.random.default_rng([seed, number]))
    ]
    return pd.DataFrame([*rows, *_rates_of_others(n_runs, seed)])


def world_rates(world: World, n_runs: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of ``false_rates`` of one world."""
    false, worst = (dict.fromkeys(world.false, 0) for _ in range(2))
    for run in range(n_runs):
        made = world.make(rng)
        decided = decide_world(made, world, run)
        if decided is None:
            continue
        sizes = family_sizes(made, max(len(one.layers) for one in decided.pools))
        for question, is_false in world.false.items():
            wrong = is_false(decided)
            last, first = _of_question(decided, question)
            false[question] += bool((np.isfinite(first) & wrong).any())
            worst[question] += bool((rejects(last, LEVEL, sizes[question]) & wrong).any())
    return [
        {"world": world.name, "question": question, "runs": n_runs}
        | _rate(false[question], n_runs)
        | {f"worst_{key}": value for key, value in _rate(worst[question], n_runs).items()}
        for question in world.false
    ]


def _rates_of_others(n_runs: int, seed: int) -> list[dict[str, Any]]:
    """The same of two tests that are not used: of a fixed number of items, and of symmetry.

    Student's t with Holm's correction is looked at after every round; symmetric bets are valid if
    losses are symmetric about 0, and here only their mean is 0.
    """
    rng, ends = np.random.default_rng([seed, 1, 0]), np.arange(8, 401, 8)
    false = dict.fromkeys(
        ("t-test after every round: nothing is needed, 400 items",
         "symmetric bets: a tenth gains 0.9 nats, others lose 0.1"), 0,
    )  # fmt: skip
    looked_at, symmetric = false
    for _ in range(n_runs):
        nats = normal(0.0)(rng, 400)
        n = ends[:, None]
        sums, squares = (values.cumsum(axis=0)[ends - 1] for values in (nats, nats**2))
        error = np.sqrt((squares - sums**2 / n) / (n - 1) / n)
        false[looked_at] += bool((holm(student.sf(sums / n / error, n - 1)) < LEVEL).any())
        skewed = symmetric_evidence(rare(0.1, -0.9, 0.1)(rng, 200))
        false[symmetric] += bool(rejects(suprema(skewed), LEVEL).any())
    return [
        {"world": name, "question": NEEDED, "runs": n_runs}
        | _rate(count, n_runs)
        | {f"worst_{key}": value for key, value in _rate(count, n_runs).items()}
        for name, count in false.items()
    ]


def symmetric_evidence(losses: Float[np.ndarray, "units layers"]) -> Losses:
    """Log evidence against losses that are symmetric about 0, or below.

    The mean over a of prod exp(a x) / cosh(a x), the Fisher-type e-test of Vovk and Wang (2024, New
    Engl. J. Stat. Data Sci. 2; arXiv:2208.08925).
    """
    bets = 2.0 ** np.arange(-4, 5)[:, None, None]
    growth = bets * losses - np.logaddexp(bets * losses, -bets * losses) + np.log(2)
    return np.logaddexp.reduce(growth.cumsum(axis=1), axis=0) - np.log(len(bets))


def decide_world(made: list[Cell], world: World, seed: int) -> Decided | None:
    """The race on a run of a world; None if nothing has signal."""
    every = {(cell.task, cell.protocol): True for cell in made}
    signal = signals(made, lambda *_: layer_claims.CHANCE) if world.gate else every
    chance = layer_claims.CHANCE if world.measure == ACCURACY else 0.0
    floors = {(cell.task, cell.protocol): cell.floor(chance) for cell in made}
    questions = tuple(world.false)
    return decide(made, signal, floors, measure=world.measure, seed=seed, questions=questions)


def _of_question(decided: Decided, question: str) -> tuple[np.ndarray, np.ndarray]:
    """Largest evidence of all items, and the round of the verdict, of each hypothesis."""
    evidence, found = decided.evidence, decided.race
    if question == CROSSING:
        crossings = evidence.crossings
        whole = np.full(crossings.more.shape, len(crossings.suprema))
        return crossing_suprema(crossings, whole), found.crossing
    last = {NEEDED: evidence.needed, SPARE: evidence.spare}[question][-1]
    return last, {NEEDED: found.needed, SPARE: found.spare}[question]


def _rate(count: int, n: int) -> dict[str, float | int]:
    interval = exact_interval(count, n)
    return {"false": count, "rate": count / n, "low": interval.low, "high": interval.high}
