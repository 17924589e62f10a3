"""Guessing without the question: the table of all guessers, and the control of a run.

Guessers are fitted on all items of a task, also on those that a run does not ask, because that
needs no model. A rule or guesser that is chosen among many is never measured on the items that it
was chosen by. The test whether a model is better is in ``stats.signals``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise.stats import exact_interval
from layerwise.stats.families.multiplicity import correct_family
from layerwise.tasks._encoding import Tokenizer
from layerwise.tasks.extractors import extractor
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

from .classifiers import conditional_logit_guesser, naive_bayes_guesser
from .cross_fitting import CrossFit, best_overall, best_per_quarter, cross_fit_halves
from .features import Feature, mention_features, option_features
from .guessers import Guesser, describe_rule, rule_guessers
from .options import TaskOptions, item_quarters, task_options


@dataclass(frozen=True)
class QuestionOnlyBaseline:
    """Right answers of the best guesser that does not see the question, item by item.

    Attributes:
        task: the task's name.
        items: item ids, in the task's order.
        right: true where the guesser is right.
        guessers: for each quarter of the items, the guesser that was best on the other three and
            answers this one.
        rules: the rules that they fitted, joined.
    """

    task: str
    items: tuple[str, ...]
    right: Bool[np.ndarray, " items"]
    guessers: tuple[str, ...]
    rules: str

    @property
    def accuracy(self) -> float:
        """Share of right guesses, from 0 to 1."""
        return float(self.right.mean())


def guesser_accuracies(task: Task, *, tokenizer: Tokenizer | None = None) -> pd.DataFrame:
    """Accuracies of guessers that do not see the question.

    They go by the options alone: position, length, value, alphabetical order, nearness to a
    constant or to the options' mean, likeness to the other options, how often an option is
    offered, and which texts, words and characters were right elsewhere (naive Bayes). A
    conditional logit model uses all features together. Some know the context, too, and go by
    where it mentions the options. Whatever can be fitted is fitted on one half of the items and
    measured on the other one.

    Args:
        task: a task whose items all have options.
        tokenizer: lets guessers count an option's tokens, too.

    Returns:
        A row for each guesser, the best first: ``guesser``, ``sees``, ``rule`` (as
        fitted in either half), ``n`` (items), ``accuracy`` with its exact 95 % interval
        (``low``, ``high``), ``chance`` (one over the number of options, averaged), ``p`` (exact,
        one-sided: as many right by guessing uniformly among the options), ``p_holm`` (corrected
        over the guessers).

    Raises:
        UserError: an item has no options.

    Example:
        >>> from layerwise.tasks import guesser_accuracies, load_task
        >>> table = guesser_accuracies(load_task("kv-words"))
        >>> bool((table["p_holm"] < 0.05).any())
        False
    """
    options = task_options(task)
    rows = []
    for guesser in all_guessers(options, tokenizer, context=True):
        fit = cross_fit_halves(options, guesser)
        hits, n = int(fit.right.sum()), len(fit.right)
        interval = exact_interval(hits, n)
        rows.append(
            {
                "guesser": guesser.name,
                "sees": guesser.sees,
                "rule": "; ".join(dict.fromkeys(rule for _, rule in fit.rules)),
                "n": n,
                "accuracy": hits / n,
                "low": interval.low,
                "high": interval.high,
                "chance": float((1 / options.counts).mean()),
                "p": uniform_guessing_p_value(hits, 1 / options.counts),
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = correct_family(table["p"].to_numpy(dtype=float))
    return table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def question_only_baseline(
    task: Task, *, tokenizer: Tokenizer | None = None
) -> QuestionOnlyBaseline:
    """Right answers of the best guesser that sees only the options, item by item.

    For each quarter of the items the guesser is chosen on the other three, by how well it does
    there when it is fitted and measured on different quarters. So the choice among many does not
    make it look better than it is.

    Args:
        task: a task whose items all have options.
        tokenizer: lets guessers count an option's tokens, too.

    Raises:
        UserError: an item has no options.

    Example:
        >>> from layerwise.tasks import load_task, question_only_baseline
        >>> question_only_baseline(load_task("kv-words")).right.shape
        (200,)
    """
    options = task_options(task)
    fit = best_per_quarter(options, all_guessers(options, tokenizer, context=False))
    names, rules = zip(*fit.rules, strict=True)
    return QuestionOnlyBaseline(task.name, options.items, fit.right, names, "; ".join(rules))


def all_guessers(
    options: TaskOptions, tokenizer: Tokenizer | None, *, context: bool
) -> Sequence[Guesser]:
    """All guessers; those that know the context only if that is asked for."""
    features = option_features(options, tokenizer)
    mentions = mention_features(options) if context else {}
    return [*rule_guessers(options, features, mentions), *_with_weights(options, features)]


def _with_weights(options: TaskOptions, features: Mapping[str, Feature]) -> Sequence[Guesser]:
    return [
        naive_bayes_guesser(options, "texts", lambda text: (text,)),
        naive_bayes_guesser(options, "words", str.split),
        naive_bayes_guesser(options, "characters", iter),
        conditional_logit_guesser(options, features),
    ]


def _best_in_hindsight(options: TaskOptions, tokenizer: Tokenizer | None) -> CrossFit:
    """The best guesser of all items; options that its rule cannot tell apart are taken in order."""
    # Or at random, from the first or from the last, whichever is right more often.
    features = option_features(options, tokenizer)
    most = options.offered.shape[1]
    places = np.broadcast_to(np.arange(most) / most, options.offered.shape)
    rules = [
        guesser
        for jitter in (options.jitter, 1 - places, places)
        for guesser in rule_guessers(replace(options, jitter=jitter), features, {})
    ]
    return best_overall(options, rules, _with_weights(options, features))


def uniform_guessing_p_value(hits: int, shares: Float[np.ndarray, " items"]) -> float:
    """P(``hits`` or more are right) if each item is right with its own probability."""
    from scipy.stats import binom, poisson_binom

    if np.ptp(shares) == 0:
        return float(binom.sf(hits - 1, len(shares), shares[0]))
    return float(np.clip(poisson_binom.sf(hits - 1, shares), 0.0, 1.0))


# Items that are enough to find what gives answers away; more only take longer.
_MOST_FITTED = 2000
# Below this p-value (one-sided, exact) a guesser counts as above chance. It is higher than usual,
# because a guesser at chance is no control of the model (docs/statistics/signal.md).
ABOVE_CHANCE = 0.1


@dataclass(frozen=True)
class GuesserAnswers:
    """Right answers of the guesser that a run's model is compared with."""

    right: Mapping[str, bool]  # by item id, also of items that are not asked
    rule: str  # how it guesses, in words
    # True if the model must be better. It need not beat a guesser at chance: chance itself is a
    # control already.
    is_control: bool


def guesser_answers(
    task: Task, protocol: str, *, tokenizer: Tokenizer | None = None, alone: bool = False
) -> GuesserAnswers | None:
    """Answers of the best guesser without the question, under a protocol; None without options."""
    # Where a model chooses among options, the guesser sees the options alone. Where the model
    # writes its answer (``generate``), no options are shown, and the guesser says what is most
    # often right in other items. Each quarter is answered by what was best on the other three.
    # ``alone`` if the model can be asked no other question: then nothing else controls it, and the
    # guesser has the rule that is best on all items.
    items = (*task.items, *task.unasked[: max(0, _MOST_FITTED - len(task.items))])
    if protocol == "generate":
        return _most_frequent_answer(task, items, alone)
    for item in items:
        right = {item.answer, *item.aliases}.intersection(item.choices)
        if len(item.choices) < 2 or right != {item.answer}:
            return None
    options = task_options(replace(task, items=items))
    fit = (
        _best_in_hindsight(options, tokenizer)
        if alone
        else best_per_quarter(options, all_guessers(options, tokenizer, context=False))
    )
    p = uniform_guessing_p_value(int(fit.right.sum()), 1 / options.counts)
    # The guesser that most quarters are answered by, with a rule of it.
    name = _most_frequent([name for name, _ in fit.rules])
    rule = describe_rule(name, _most_frequent([rule for other, rule in fit.rules if other == name]))
    by_id = dict(zip(options.items, fit.right.tolist(), strict=True))
    return GuesserAnswers(by_id, rule, alone or p < ABOVE_CHANCE)


def _most_frequent_answer(task: Task, items: Sequence[Item], alone: bool) -> GuesserAnswers:
    from scipy.stats import binom

    normalise = extractor(task.generate.extractor).normalise
    answers = [normalise(item.answer) for item in items]
    quarter = item_quarters(items)
    right, given = np.zeros(len(items), dtype=bool), []
    for own in range(4):
        fitted = np.ones(len(items), dtype=bool) if alone else quarter != own
        others = [answer for answer, known in zip(answers, fitted, strict=True) if known]
        guess = _most_frequent(others) if others else ""
        given += [guess] if (quarter == own).any() else []
        for at in np.flatnonzero(quarter == own).tolist():
            spelled = (items[at].answer, *items[at].aliases)
            right[at] = guess in map(normalise, spelled)
    p = binom.sf(int(right.sum()) - 1, len(items), task.chance.get("generate", 0.0))
    by_id = dict(zip((item.id for item in items), right.tolist(), strict=True))
    return GuesserAnswers(
        by_id, f"saying {_most_frequent(given)!r}", alone or bool(p < ABOVE_CHANCE)
    )


def _most_frequent(texts: Sequence[str]) -> str:
    """The most frequent text; of equally frequent ones the first in the alphabet."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))
