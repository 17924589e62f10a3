"""Signal gates: tests of which tasks of a run the intact model answers better than blind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from layerwise.stats.cells import Blind as Blind
from layerwise.stats.cells import Cell
from layerwise.stats.cells import GuesserResult as GuesserResult
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import (
    Clusters,
    clusters_from_table,
    design_effects,
    with_design_effect,
)
from layerwise.stats.items.crossed import crossed_means

# One-sided, as the lower end of a 95 % interval.
LEVEL = 0.025


class MethodAnswers(NamedTuple):
    """A method's own answers to a task, for its signal alone."""

    task: str  # the task's name
    protocol: str
    intact: Bool[np.ndarray, " items"]  # whether the intact model was right, by item
    blind: Blind | None = None  # other items' questions, if any were asked
    # None: methods that leave layers as they are do not ask for it.
    no_layers: Bool[np.ndarray, " items"] | None = None
    # Which items ask for the same thing; None if each stands by itself.
    clusters: Clusters | None = None
    # None, for such methods ask for first tokens, of which no options are offered.
    guessed: GuesserResult | None = None
    # None, for such methods ask with one draw of few-shot examples.
    of_examples: tuple[MethodAnswers, ...] = ()

    @classmethod
    def from_items(cls, items: pd.DataFrame, right: Bool[np.ndarray, " items"]) -> MethodAnswers:
        """From a table with a row per item."""
        task, protocol = (str(items[name].iloc[0]) for name in ("task", "protocol"))
        there = items["blind"].notna().to_numpy(dtype=bool)
        other = items["blind"].fillna(value=False).to_numpy(dtype=bool)
        blind = Blind(other.astype(int), there.astype(int)) if there.any() else None
        clusters = clusters_from_table(items, items["item"].tolist())
        return cls(task, protocol, right, blind, clusters=clusters)


# A task under a protocol, and whether the intact model was right.
SignalCell = Cell | MethodAnswers


def above_chance_p_values(
    right: Int[np.ndarray, " cells"],
    n: Int[np.ndarray, " cells"],
    chance: Float[np.ndarray, " cells"],
) -> Float[np.ndarray, " cells"]:
    """One-sided exact binomial test of the intact accuracy against guessing."""
    # Below 0.025 exactly where the 95 % interval of Clopper and Pearson (1934, Biometrika 26) lies
    # above chance.
    from scipy.stats import binom

    return np.asarray(binom.sf(right - 1, n, chance))


def better_than_blind_p_value(
    intact: Bool[np.ndarray, " items"], blind: Blind, clusters: Clusters | None = None
) -> float:
    """One-sided exact test that the question matters, paired over items."""
    # If it does not, of the ``s`` right answers to an item's ``k + 1`` questions each is the one to
    # its own with probability 1 / (k + 1). So right answers to own questions are a sum of Bernoulli
    # variables with probabilities s / (k + 1), given the s: with one other question McNemar's exact
    # test, in general that of matched sets (Breslow and Day 1980, Statistical Methods in Cancer
    # Research 1, section 5.3). Items that are asked nothing else say nothing.
    from scipy.stats import poisson_binom

    probability = (intact + blind.right) / (blind.n_asked + 1)
    undecided = (probability > 0) & (probability < 1)
    if not undecided.any():
        return 1.0
    p = poisson_binom.sf(intact[undecided].sum() - 1, probability[undecided])
    if clusters is None or clusters.are_items:
        return float(p)
    kept = clusters.select_items(undecided)
    beyond = (intact - probability)[undecided]
    return float(with_design_effect(np.array([p]), design_effects(beyond[:, None], kept), kept)[0])


def without_the_question(cell: SignalCell) -> list[Blind]:
    """Controls without the item's own question: other items' questions, and options alone."""
    controls = [] if cell.blind is None or not cell.blind.n_asked.any() else [cell.blind]
    if cell.guessed is not None and cell.guessed.is_control:
        controls.append(cell.guessed.blind)
    return controls


def better_than_all_p_value(
    right: Bool[np.ndarray, " items"], controls: Sequence[Blind], clusters: Clusters | None = None
) -> float:
    """The largest of the p-values of ``better_than_blind_p_value``; 0 if there is no control."""
    return max(
        (better_than_blind_p_value(right, control, clusters) for control in controls), default=0.0
    )


def signal_p_values(
    cells: Sequence[SignalCell], chance: Callable[[str, str], float]
) -> Float[np.ndarray, " cells"]:
    """Of each task and protocol, the p-value of "no better than chance or a control"."""
    # The largest of the p-values is that of their union (Berger 1982, Technometrics 24). What was
    # not asked, as all items have the same answer, is left out.
    return np.array([_signal_p_value(cell, chance) for cell in cells], dtype=float)


def _signal_p_value(cell: SignalCell, chance: Callable[[str, str], float]) -> float:
    if cell.of_examples:
        return _over_examples(cell, chance)
    right, n = np.array([cell.intact.sum()], dtype=int), np.array([len(cell.intact)])
    level = np.array([chance(cell.task, cell.protocol)], dtype=float)
    guessing = above_chance_p_values(right, n, level)
    if cell.clusters is not None and not cell.clusters.are_items:
        effects = design_effects(cell.intact[:, None].astype(float), cell.clusters)
        guessing = with_design_effect(guessing, effects, cell.clusters)
    controls = without_the_question(cell)
    if cell.no_layers is not None:
        controls.append(Blind(cell.no_layers.astype(int), np.ones(len(cell.intact), dtype=int)))
    return max(float(guessing[0]), better_than_all_p_value(cell.intact, controls, cell.clusters))


def _over_examples(cell: SignalCell, chance: Callable[[str, str], float]) -> float:
    """The p-value over several draws of few-shot examples."""
    # The larger of two: the median of what each draw says by itself, and the largest of those of
    # the mean over items and draws against each control, both of which are samples
    # (``CrossedMeans``).
    each = cell.of_examples
    right = np.stack([draw.intact.astype(float) for draw in each])[:, :, None]
    clusters = each[0].clusters or Clusters.singletons(right.shape[1])
    against = [right - chance(cell.task, cell.protocol)]
    without = [draw.no_layers for draw in each if draw.no_layers is not None]
    if len(without) == len(each):
        against.append(right - np.stack(without).astype(float)[:, :, None])
    p_values = [float(crossed_means(draw, clusters).upper_p_values()[0]) for draw in against]
    guessed = [draw.guessed.blind for draw in each if draw.guessed and draw.guessed.is_control]
    for control in ([draw.blind for draw in each if draw.blind is not None], guessed):
        was_asked = np.all([draw.n_asked > 0 for draw in control], axis=0)
        if len(control) == len(each) and was_asked.any():
            rates = np.stack([draw.rates for draw in control])
            means = crossed_means(
                (right - rates[:, :, None])[:, was_asked], clusters.select_items(was_asked)
            )
            p_values.append(float(means.upper_p_values()[0]))
    return max(*p_values, float(np.median(signal_p_values(each, chance))))


def have_signal(p: Float[np.ndarray, " cells"]) -> Bool[np.ndarray, " cells"]:
    """True where there is signal by the p-values of a whole run, after Holm's correction."""
    return correct_family(p) < LEVEL


def signals(
    cells: Sequence[SignalCell], chance: Callable[[str, str], float]
) -> dict[tuple[str, str], bool]:
    """Signal of each task and protocol of a run, after Holm's correction over all of them."""
    # Of many suites that a model only guesses on, some would pass one by one.
    has_signal = have_signal(signal_p_values(cells, chance))
    return {
        (cell.task, cell.protocol): signal
        for cell, signal in zip(cells, has_signal.tolist(), strict=True)
    }


def signals_from_table(gate: pd.DataFrame) -> dict[tuple[str, str], bool]:
    """Signal of each task and protocol, by a table with a row for each."""
    places = zip(gate["task"], gate["protocol"], strict=True)
    return dict(zip(places, gate["signal"].tolist(), strict=True))


def gate_table(cells: Sequence[SignalCell], floor: Callable[[str, str], float]) -> pd.DataFrame:
    """Table of a method's own signal gate: a row per task and protocol."""
    p = signal_p_values(cells, floor)
    columns = {
        "task": [cell.task for cell in cells],
        "protocol": [cell.protocol for cell in cells],
        "n_items": [len(cell.intact) for cell in cells],
        "n_clusters": [cell.clusters.n if cell.clusters else len(cell.intact) for cell in cells],
        "accuracy": [float(cell.intact.mean()) for cell in cells],
        "floor": [floor(cell.task, cell.protocol) for cell in cells],
        "blind": [cell.blind.accuracy if cell.blind else np.nan for cell in cells],
    }
    return pd.DataFrame(columns).assign(p=p, signal=have_signal(p))


class IntactAnswers(NamedTuple):
    """The intact model's answers to one task, as their difficulty is compared."""

    right: Bool[np.ndarray, " items"]  # whether it was right, by item
    clusters: Clusters  # which items ask for the same thing


class AccuracyDifference(NamedTuple):
    """Two accuracies, each a mean over tasks, and a two-sided test of their difference."""

    first: float
    second: float
    p: float


def accuracy_difference(
    first: Sequence[IntactAnswers], second: Sequence[IntactAnswers]
) -> AccuracyDifference:
    """Mean accuracies of two groups of tasks, and whether they differ."""
    # Student's t of the difference, with the variance from sums over clusters (Liang and Zeger
    # 1986, Biometrika 73). What both groups ask for is one cluster, so that its answers are paired;
    # the rest is not. Each task gets one right and one wrong answer more, each by itself (Agresti
    # and Caffo 2000, Am. Stat. 54), without which the test is too sure near accuracies of 0 and 1.
    from scipy.stats import t

    parts, every, shift = [], [], 0.0
    for sign, group in ((1.0, first), (-1.0, second)):
        for task in group:
            right = np.concatenate([task.right, [True, False]]).astype(float)
            weight = sign / (len(right) * len(group))
            shift += weight * right.sum()
            parts.append(weight * (right - right.mean()))
            every.append(Clusters.from_labels([*task.clusters.labels, None, None]))
    together = Clusters.concatenate(every)
    freedom = together.n - len(every)
    before, after = (
        float(np.mean([task.right.mean() for task in group])) for group in (first, second)
    )
    summed = together.sums(np.concatenate(parts))
    error = float(np.sqrt((summed**2).sum() * together.n / max(freedom, 1)))
    known = freedom >= 1 and abs(shift) >= 1e-12
    p = float(2 * t.sf(abs(shift) / error, freedom)) if known else 1.0
    return AccuracyDifference(before, after, p)
