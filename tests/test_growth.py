"""Work and memory that grow with items or options no faster than these do, counted."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import numpy as np
import pytest

from layerwise.analyses.ablation import job
from layerwise.analyses.ablation.api import ablate
from layerwise.runs import controls, encoding
from layerwise.runs.setup import prepare
from layerwise.stats import inference, resampling
from layerwise.stats.items import clusters
from layerwise.tasks.blind import classifiers, features, guessers
from layerwise.tasks.blind.options import TaskOptions, task_options
from tests.analysis import word_task
from tests.models.tiny import tiny_model
from tests.tasks.test_blind import options_task, words


@pytest.mark.parametrize("room", [0, encoding._MOST_TOKENS])
def test_guesses_and_other_questions_are_made_once_for_each_task(monkeypatch, room):
    monkeypatch.setattr(encoding, "_MOST_TOKENS", room)
    monkeypatch.setattr(job, "ITEMS_AT_ONCE", 2)
    drawn = mock.Mock(side_effect=encoding.with_other_questions)
    guessed = mock.Mock(side_effect=controls.guesser_answers)
    monkeypatch.setattr(encoding, "with_other_questions", drawn)
    monkeypatch.setattr(controls, "guesser_answers", guessed)
    tasks = [word_task(6, name) for name in ("one", "two")]
    ablate(tiny_model("llama"), tasks, ("continuation", "generate"), layers=[0], progress=False)
    assert [call.args[0].name for call in drawn.call_args_list] == ["one", "two"]
    asked = Counter((call.args[0].name, call.args[1]) for call in guessed.call_args_list)
    assert set(asked.values()) == {1}
    assert len(asked) == 4


def test_options_of_one_item_share_the_room_of_their_prompt():
    model, task = tiny_model("llama"), word_task(1)
    with mock.patch.object(encoding, "_TOKENS_OF_REQUEST", 0):
        made = prepare(model, task, "continuation").requests(task, task.items[0], "continuation")
        context = made[0].request.context
        assert all(one.request.context is context for one in made)
        own = sum(len(one.request.continuation) for one in made)
        assert encoding.memory_in_tokens(made) == len(context) + own


def many_options(n_options: int, n_items: int = 12):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(n_items):
        texts = {text: None for _ in range(n_options) for text in words(rng)}
        rows.append(list(texts)[: n_options - int(rng.integers(3))])
    return task_options(options_task(rows, rng.integers(3, size=n_items).tolist()))


def test_likeness_of_options_is_that_of_every_pair():
    options = many_options(7)
    for parts in (list, str.split, features._word_pairs):
        found = features._mean_overlap(options, parts)
        for row, texts in zip(found, options.texts, strict=True):
            counts = [Counter(parts(text)) for text in texts]
            for at, own in enumerate(counts):
                common = [(own & other).total() for i, other in enumerate(counts) if i != at]
                assert row[at] == sum(common) / len(common)


def test_ranks_are_right_where_the_option_of_that_rank_is_picked():
    options = many_options(6)
    feature = features._measure_options(options, len)
    feature[:2] = np.nan
    found = guessers.right_by_rank(options, feature)
    low = guessers.ranks(options, feature)
    known = ~np.isnan(feature).all(axis=1, keepdims=True)
    picked = [
        options.pick((order == place) * 1.0 * known)
        for order in (low, options.counts[:, None] - 1 - low)
        for place in range(options.offered.shape[1])
    ]
    assert np.array_equal(found, np.array(picked))


def test_work_of_a_guesser_by_rank_does_not_grow_with_the_square_of_options():
    for n_options in (8, 64):
        options = many_options(n_options)
        with mock.patch.object(
            TaskOptions, "pick", autospec=True, side_effect=TaskOptions.pick
        ) as pick:
            next(guessers.rule_guessers(options, {}, {}))
        assert pick.call_count == 1


@pytest.mark.long
def test_number_of_weights_does_not_grow_with_options():
    n_columns = [
        classifiers.conditional_logit_inputs(many_options(n), {}).shape[-1]
        for n in (8, 32, 40, 400)
    ]
    assert n_columns == [8, 32, 32, 32]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 rows or a few more, however small the matrix."""
    monkeypatch.setattr(resampling, "_AT_ONCE", 1)


@pytest.mark.parametrize("n", [1, 17, 130])
def test_resamples_in_chunks_are_those_of_one_draw(small_chunks, n):
    whole = np.random.default_rng(4).integers(0, n, size=(321, n))
    found = resampling.resample_indices(n, 321, 4)
    assert np.array_equal(found, whole)
    counts = np.stack([np.bincount(row, minlength=n) for row in whole])
    assert np.array_equal(resampling.resample_counts(found), counts)
    values = np.random.default_rng(5).normal(size=(n, 3))
    with_first = clusters.sample_and_resamples(n, 321, 4)
    assert np.array_equal(with_first[0], np.arange(n))
    means = clusters.Clusters.singletons(n).resampled_means(values, with_first[1:])
    np.testing.assert_allclose(means, counts @ values / n, rtol=1e-12)
    assert np.array_equal(means, clusters.Clusters.singletons(n).means_of_counts(values, counts))


@pytest.mark.parametrize("n", [5, 17, 130])
def test_sign_flips_in_chunks_are_those_of_one_draw(small_chunks, n):
    values = np.random.default_rng(1).normal(0.2, size=(n, 3))
    found = inference.sign_flip_p_values(values, seed=6, n_flips=500)
    if n <= 16:
        signs = np.where(np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1, -1.0, 1.0)
    else:
        signs = np.random.default_rng(6).choice([-1.0, 1.0], size=(500, n))
    reached = (np.abs(signs @ values) >= np.abs(values.sum(axis=0)) * (1 - 1e-9)).sum(axis=0)
    expected = reached / len(signs) if n <= 16 else (reached + 1) / 501
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("n_rows", [0, 1, 64, 65, 128, 129, 2001])
@pytest.mark.parametrize("width", [0, 1, 5000, 10**7])
def test_chunks_hold_every_row_once_and_none_is_of_few_rows(n_rows, width):
    chunks = list(resampling.row_chunks(n_rows, width))
    assert [i for rows in chunks for i in range(rows.start, rows.stop)] == list(range(n_rows))
    assert all(rows.stop - rows.start >= min(64, n_rows) for rows in chunks)
    most = max(resampling._AT_ONCE // max(width, 1), 64) + 64
    assert all(rows.stop - rows.start <= most for rows in chunks)
