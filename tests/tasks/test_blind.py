"""Question-blind guessers: they find what gives an answer away, and nothing where nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.discrete.conditional_models import ConditionalLogit

from layerwise.errors import UserError
from layerwise.tasks import Item, Task, guesser_accuracies, question_only_baseline
from layerwise.tasks.blind.classifiers import conditional_logit, naive_bayes_guesser
from layerwise.tasks.blind.control import uniform_guessing_p_value
from layerwise.tasks.blind.options import task_options
from tests.cases import data_sets, most_errors

from .small import small_task
from .tokenizers import byte_level

WORDS = tuple(f"{a}{b}{c}" for a in "bdgkp" for b in "aeiou" for c in "lmnrst")
Gold = Callable[[np.random.Generator, list[str]], int]


def options_task(options: list[list[str]], gold: list[int], **more: list[Any]) -> Task:
    """A task of these options; ``more`` are further fields of its items."""
    items = tuple(
        Item(
            id=f"t/{index}", question=f"q{index}", answer=row[right], choices=tuple(row),
            **{name: values[index] for name, values in more.items()},
        )
        for index, (row, right) in enumerate(zip(options, gold, strict=True))
    )  # fmt: skip
    return small_task(items=items, fewshot=())


def numbers(rng: np.random.Generator) -> list[str]:
    return [str(one) for one in rng.choice(60, 4, replace=False)]


def words(rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 4), replace=False)) for _ in range(4)]


def planted_task(
    options: Callable[[np.random.Generator], list[str]],
    gold: Gold,
    n: int = 400,
    share: float = 0.5,
    seed: int = 0,
) -> Task:
    """Options whose right one is, in a share of the items, the one that ``gold`` says."""
    rng = np.random.default_rng(seed)
    rows = [options(rng) for _ in range(n)]
    right = [gold(rng, row) if rng.random() < share else int(rng.integers(4)) for row in rows]
    return options_task(rows, right)


def nearest(values: np.ndarray, to: float) -> int:
    return int(np.abs(values - to).argmin())


def value(row: list[str]) -> np.ndarray:
    return np.array([float(one) for one in row])


def longest(_: np.random.Generator, row: list[str]) -> int:
    return int(np.argmax([len(one) for one in row]))


SHORTCUTS: dict[str, tuple[Callable[[np.random.Generator], list[str]], Gold]] = {
    "position": (words, lambda _, row: 2),
    "characters": (words, longest),
    "words": (words, lambda _, row: int(np.argmin([len(one.split()) for one in row]))),
    "alphabetical order": (words, lambda _, row: row.index(sorted(row)[1])),
    "number": (numbers, lambda _, row: int(value(row).argsort()[1])),
    "number, nearest to a constant": (numbers, lambda _, row: nearest(value(row), 15)),
    "distance from the options' mean": (
        numbers, lambda _, row: nearest(value(row), value(row).mean())
    ),
    "distance from the options' median": (
        numbers, lambda _, row: nearest(value(row), float(np.median(value(row))))
    ),
    "parity": (numbers, lambda _, row: int((value(row) % 2).argmin())),
    "naive Bayes of words": (
        words, lambda _, row: max(range(4), key=lambda at: row[at].count("k"))
    ),
}  # fmt: skip


@pytest.mark.long(but=["characters", "words"])
@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_planted_shortcut_is_found_by_its_guesser(name: str) -> None:
    table = guesser_accuracies(planted_task(*SHORTCUTS[name])).set_index("guesser")
    assert table.loc[name, "p_holm"] < 0.001
    assert question_only_baseline(planted_task(*SHORTCUTS[name])).accuracy > 0.33


def test_texts_likeness_and_frequency_are_shortcuts_too() -> None:
    rng = np.random.default_rng(0)
    rows, right = [], []
    for _ in range(300):
        base, odd = rng.choice(WORDS, 3, replace=False), rng.choice(WORDS, 3, replace=False)
        row = [" ".join(rng.permutation(base)) for _ in range(3)]
        at = int(rng.integers(4))
        rows.append([*row[:at], " ".join(odd), *row[at:]])
        right.append(at)
    odd_one = guesser_accuracies(options_task(rows, right)).set_index("guesser")
    assert odd_one.loc["words shared with the other options", "accuracy"] == 1

    pool = [[str(one) for one in rng.choice(WORDS[:8], 3, replace=False)] for _ in range(140)]
    rare = [[*row, f"answer {index}"] for index, row in enumerate(pool)]
    often = guesser_accuracies(options_task(rare, [3] * 140)).set_index("guesser")
    assert often.loc["times offered in the task", "accuracy"] == 1
    favourite = [[WORDS[20], *row] for row in pool]
    known = guesser_accuracies(options_task(favourite, [0] * 140)).set_index("guesser")
    assert known.loc["naive Bayes of texts", "accuracy"] == 1


def test_a_context_that_lists_the_options_gives_their_order_away() -> None:
    rng = np.random.default_rng(0)
    rows = [list(map(str, rng.choice(WORDS, 4, replace=False))) for _ in range(200)]
    contexts = [f"There are {', '.join(rng.permutation(row))}." for row in rows]
    first = [
        min(range(4), key=lambda at: context.index(row[at]))
        for row, context in zip(rows, contexts, strict=True)
    ]
    table = guesser_accuracies(options_task(rows, first, context=contexts)).set_index("guesser")
    found = table.loc["first mention in the context"]
    assert (found["accuracy"], found["sees"]) == (1, "options and context")
    alone = table[table["sees"] == "options"]
    assert min(alone["p_holm"]) > 0.05
    # The best guesser sees the options alone.
    assert question_only_baseline(options_task(rows, first, context=contexts)).accuracy < 0.4


def test_tokens_are_counted_where_there_is_a_tokenizer() -> None:
    task = planted_task(words, longest)
    assert "tokens" not in set(guesser_accuracies(task)["guesser"])
    counted = guesser_accuracies(task, tokenizer=byte_level()).set_index("guesser")
    assert counted.loc["tokens", "p_holm"] < 0.001
    assert question_only_baseline(task, tokenizer=byte_level()).accuracy > 0.33


def test_where_nothing_tells_nothing_is_found() -> None:
    n = data_sets(72)
    tables = [
        guesser_accuracies(planted_task(numbers, longest, 60, 0.0, seed)) for seed in range(n)
    ]
    claims = sum(bool((table["p_holm"] < 0.05).any()) for table in tables)
    assert claims <= most_errors(n)


@pytest.mark.long
def test_the_best_of_many_is_no_better_than_chance_where_nothing_tells() -> None:
    n = data_sets(72)
    right = [
        question_only_baseline(planted_task(numbers, longest, 60, 0.0, seed)).right
        for seed in range(n)
    ]
    hits = int(np.concatenate(right).sum())
    assert binomtest(hits, 60 * n, 0.25).pvalue > 0.001


def test_no_item_has_a_say_in_its_own_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    task = planted_task(words, longest, 80)
    before, quarter = question_only_baseline(task), task_options(task).quarter
    monkeypatch.setattr("layerwise.tasks.blind.options._quarters", lambda items, gold: quarter)
    for one in range(4):
        own = quarter == one
        changed = tuple(
            replace(item, answer=next(c for c in item.choices if c != item.answer))
            if mine
            else item
            for item, mine in zip(task.items, own, strict=True)
        )
        after = question_only_baseline(replace(task, items=changed))
        assert after.guessers[one] == before.guessers[one]
        # What was guessed right before is wrong now, for the guess is the same one.
        assert not (after.right & before.right)[own].any()


def test_what_belongs_together_is_fitted_together() -> None:
    rng = np.random.default_rng(0)
    rows = [numbers(rng) for _ in range(40)]
    turned = [[*row[turn:], *row[:turn]] for row in rows for turn in range(4)]
    options = task_options(options_task(turned, [0] * 160))
    assert all(len(set(options.quarter[at : at + 4])) == 1 for at in range(0, 160, 4))
    clusters = [f"fact {index % 40}" for index in range(160)]
    spread = [numbers(rng) for _ in range(160)]
    asked = task_options(options_task(spread, [0] * 160, cluster=clusters))
    assert all(len(set(asked.quarter[at::40])) == 1 for at in range(40))
    assert set(np.bincount(asked.quarter)) == {40}
    # Where answers repeat, sharing the options binds no more than each of them once.
    yes = task_options(options_task([["yes", "no"]] * 40, [0, 1] * 20))
    assert set(np.bincount(yes.quarter)) == {10}


def test_each_position_is_right_as_often_in_every_quarter() -> None:
    rng = np.random.default_rng(0)
    gold = [int(one) for one in rng.permutation(np.repeat(np.arange(4), [40, 40, 40, 8]))]
    options = task_options(options_task([numbers(rng) for _ in gold], gold))
    counts = [np.bincount(options.gold[options.quarter == one], minlength=4) for one in range(4)]
    assert [list(one) for one in counts] == [[10, 10, 10, 2]] * 4


def test_unequal_numbers_of_options_have_their_own_chance() -> None:
    rows = [["a", "b"], ["c", "d", "e", "f"]] * 3
    table = guesser_accuracies(options_task(rows, [0, 3] * 3))
    assert set(table["chance"]) == {0.375}
    shares = np.array([1 / 2, 1 / 4] * 3)
    every = np.prod(shares)
    assert uniform_guessing_p_value(6, shares) == pytest.approx(every)
    assert uniform_guessing_p_value(0, shares) == 1
    assert uniform_guessing_p_value(7, np.full(20, 0.25)) == pytest.approx(
        binomtest(7, 20, 0.25, alternative="greater").pvalue
    )


@pytest.mark.long(but=["2-0.01"])
@pytest.mark.parametrize(("n_options", "tolerance"), [(2, 0.01), (4, 0.06)])
def test_weights_are_those_of_a_conditional_logit(n_options: int, tolerance: float) -> None:
    """Of so many items its penalty does not show: statsmodels' own, of more options nearly."""
    rng, n = np.random.default_rng(0), 1500
    x = rng.normal(size=(n, n_options, 3))
    gumbel = rng.gumbel(size=(n, n_options))
    gold = (x @ np.array([1.0, -0.5, 0.0]) + gumbel).argmax(axis=1)
    ours = conditional_logit(x, np.ones((n, n_options), dtype=bool), gold)
    chosen = (np.arange(n_options) == gold[:, None]).ravel().astype(float)
    model = ConditionalLogit(chosen, x.reshape(-1, 3), groups=np.repeat(np.arange(n), n_options))
    expected = np.asarray(model.fit(disp=False).params)
    assert ours == pytest.approx(expected, abs=tolerance)
    # An option that is not offered changes nothing.
    wide = np.concatenate([x, np.full((n, 1, 3), 9.0)], axis=1)
    offered = np.arange(n_options + 1) < np.full((n, 1), n_options)
    assert conditional_logit(wide, offered, gold) == pytest.approx(ours)


def test_one_pair_of_options_gives_no_weights() -> None:
    x, offered = np.ones((1, 2, 3)), np.ones((1, 2), dtype=bool)
    assert not conditional_logit(x, offered, np.array([0])).any()
    assert not conditional_logit(x[:0], offered[:0], np.array([], dtype=int)).any()


def test_naive_bayes_is_that_of_the_formula() -> None:
    """Each word adds the log odds of how often it is in right options and in wrong ones."""
    rng = np.random.default_rng(0)
    rows = [words(rng)[: int(rng.integers(2, 5))] for _ in range(120)]
    options = task_options(options_task(rows, [0] * 60 + [1] * 60))
    train = np.arange(120) % 3 > 0
    found, _ = naive_bayes_guesser(options, "words", str.split).fit(train)
    known = sorted({word for row in rows for text in row for word in text.split()})
    has = np.zeros((*options.offered.shape, len(known)))
    for item, row in enumerate(rows):
        for place, text in enumerate(row):
            has[item, place] = [word in text.split() for word in known]
    right = np.arange(options.offered.shape[1]) == options.gold[:, None]
    share = np.where(right, 1, 1 / (options.counts - 1)[:, None]) * options.offered
    share *= train[:, None]
    logs = [
        np.where(has, np.log(often), np.log1p(-often)).sum(axis=-1)
        for outcome in (right, ~right)
        for often in [(np.einsum("iow,io->w", has, share * outcome) + 1) / (train.sum() + 2)]
    ]
    assert np.array_equal(found, options.pick(logs[0] - logs[1]))


@pytest.mark.parametrize("rows", [[["a", "b"]], [[" ", "  "]] * 9, [["", "x"], ["y", ""]]])
def test_few_items_and_empty_options_are_guessed_too(rows: list[list[str]]) -> None:
    task = options_task(rows, [0] * len(rows))
    assert question_only_baseline(task).right.shape == (len(rows),)
    assert set(guesser_accuracies(task)["n"]) == {len(rows)}


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ((), "Task 'small' has no items; expected at least one; add some."),
        (
            (Item(id="bare", question="Who?", answer="Anna"),),
            "Item 'bare' of task 'small' has no choices with the answer among them, which blind "
            "guessers choose from; add choices.",
        ),
    ],
)
def test_tasks_without_options(items: tuple[Item, ...], sentence: str) -> None:
    for ask in (guesser_accuracies, question_only_baseline):
        with pytest.raises(UserError) as caught:
            ask(small_task(items=items, fewshot=()))
        assert str(caught.value) == sentence
