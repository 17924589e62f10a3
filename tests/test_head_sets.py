"""Sets of heads: scores against plain loops, wired heads that are found, and sets that are fair."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from analyses.validity.head_claims import head_worlds, made_up_head_sets
from layerwise.analyses.head_sets.api import HeadSets
from layerwise.analyses.head_sets.figures import set_losses
from layerwise.analyses.head_sets.ranking import (
    copy_scores,
    cost_estimates,
    random_head_sets,
    top_heads,
)
from layerwise.analyses.head_sets.tables import losses_table
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.errors import UserError
from layerwise.models.organisms.wired import wired_model
from layerwise.runs.setup import prepare
from tests.cases import data_sets, most_errors
from tests.models.seq2seq.tiny import CASES, tiny_seq2seq
from tests.models.tiny import tiny_model
from tests.report.legible import WIDTHS, assert_legible

LOOK_UP, FACTS, SECOND_HOP, GATE = (3, 0), (4, 3), (6, 1), (8, 2)  # of the usual wired layout
QUIET: Any = {"limit": 60, "progress": False}
FAMILIES = ("gpt2", "llama")
PROMPT, ANSWER = (5, 9, 7, 9, 11, 5, 20), (9, 7, 5)


def log_odds(logits: torch.Tensor) -> float:
    """Mean over the answer's tokens of the log-odds of each against all others."""
    odds = []
    for place, token in enumerate(ANSWER):
        p = logits[0, len(PROMPT) - 1 + place].double().softmax(-1)[token]
        odds.append(float(torch.log(p / (1 - p))))
    return float(np.mean(odds))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_copy_score_is_what_loops_over_hooked_patterns_count(family):
    model: Any = tiny_model(family, seed=3)
    tokens = [*PROMPT, *ANSWER[:-1]]
    patterns: dict[int, torch.Tensor] = {}
    for layer in range(model.cfg.n_layers):

        def keep(pattern, hook, layer=layer):
            patterns[layer] = pattern[0].clone()

        model.run_with_hooks(
            torch.tensor([tokens]), fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", keep)]
        )
    expected = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
    for layer, head in np.ndindex(*expected.shape):
        for place, token in enumerate(ANSWER):
            row = patterns[layer][head, len(PROMPT) - 1 + place].tolist()
            top = row.index(max(row))
            if top < len(PROMPT) and tokens[top] == token:
                expected[layer, head] += 1 / len(ANSWER)
    found = copy_scores(model, PROMPT, ANSWER)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimated_cost_is_the_slope_of_a_scaled_head(family):
    model: Any = tiny_model(family, seed=3)
    tokens = torch.tensor([[*PROMPT, *ANSWER[:-1]]])
    found = cost_estimates(model, PROMPT, ANSWER)
    expected, step = np.zeros_like(found), 0.02
    for layer, head in np.ndindex(*found.shape):
        odds = []
        for times in (1 + step, 1 - step):

            def scale(z, hook, head=head, times=times):
                z[:, :, head] *= times
                return z

            hooks = [(f"blocks.{layer}.attn.hook_z", scale)]
            with torch.no_grad():
                odds.append(log_odds(model.run_with_hooks(tokens, fwd_hooks=hooks)))
        expected[layer, head] = (odds[0] - odds[1]) / (2 * step)
    assert found == pytest.approx(expected, rel=0.02, abs=1e-3)
    assert np.abs(found).max() > 0.01


def test_ranks_take_the_highest_above_zero_and_the_first_of_ties():
    scores = np.array([[0.5, 0.0, -1.0], [0.2, 0.5, 0.0]])
    assert top_heads(scores, 2) == [(0, 0), (1, 1)]
    assert top_heads(scores, 5) == [(0, 0), (1, 0), (1, 1)]
    assert top_heads(np.zeros((2, 3)), 2) == []
    assert top_heads(np.array([[48.0, 2e-14, 0.1]]), 3) == [(0, 0), (0, 2)]


def test_random_sets_have_as_many_heads_in_each_layer_and_none_that_is_chosen():
    chosen = [(1, 0), (1, 3), (4, 2)]
    drawn = random_head_sets(chosen, 6, 20, np.random.default_rng(0))
    assert len(drawn) == len({tuple(heads) for heads in drawn}) == 20
    for heads in drawn:
        assert Counter(layer for layer, _ in heads) == {1: 2, 4: 1}
        assert len(set(heads)) == 3
        assert not set(heads) & set(chosen)
    used = Counter(head for heads in drawn for head in heads)
    assert len(used) == 4 + 5  # all others of both layers occur


def test_random_sets_of_few_heads_are_as_many_as_there_are():
    alone = random_head_sets([(0, 1)], 2, 20, np.random.default_rng(0))
    assert alone == [[(0, 0)]]
    most = random_head_sets([(0, 0), (0, 1)], 3, 20, np.random.default_rng(0))
    assert sorted(most) == [[(0, 0), (0, 2)], [(0, 1), (0, 2)]]  # drawn from all, but for itself
    assert random_head_sets([(0, 0), (0, 1)], 2, 20, np.random.default_rng(0)) == []


@pytest.fixture(scope="module")
def wired() -> Any:
    """The usual wired model."""
    return wired_model()


def losses(result: Any) -> dict[str, tuple[float, float]]:
    """Share lost without the chosen heads and at most without a random set, by task."""
    table = result.losses()
    return {
        task: (
            float(rows.loc[rows["set"] == 0, "share_lost"].iloc[0]),
            float(rows.loc[rows["set"] > 0, "share_lost"].max()),
        )
        for task, rows in table.groupby("task")
    }


@pytest.fixture(scope="module")
def by_cost(wired) -> Any:
    """Sets by cost of look-ups and of two hops."""
    return lw.head_sets(wired, ["wired-lookup", "wired-two-hop"], "generate", by="cost", **QUIET)


def test_wired_heads_are_found_by_their_cost_and_carry_their_task(by_cost):
    ranked = by_cost.ranked_heads.query("chosen")
    places = ranked.groupby("ranked_on")[["layer", "head"]].apply(
        lambda rows: set(map(tuple, rows.to_numpy(dtype=int).tolist()))
    )
    assert places["wired-lookup"] == {LOOK_UP, GATE}
    assert places["wired-two-hop"] <= {LOOK_UP, SECOND_HOP, GATE}
    for chosen, random in losses(by_cost).values():
        assert chosen == pytest.approx(1.0)
        assert random == pytest.approx(0.0)
    table = by_cost.losses().query("set == 0")
    assert (table["p_holm"] < 1e-6).all()
    assert (table["n_worse"] == 0).all()


@pytest.mark.long
def test_the_head_that_copies_is_found_and_facts_do_not_need_it(wired):
    result = lw.head_sets(
        wired, ["wired-lookup", "wired-facts"], "generate", by="copying", rank_on="retrieval",
        **QUIET,
    )  # fmt: skip
    ranked = result.ranked_heads.sort_values("score", ascending=False)
    best = ranked.iloc[0]
    assert (best["layer"], best["head"], best["score"]) == (*LOOK_UP, 1.0)
    assert ranked["score"].iloc[1] < 0.5
    assert LOOK_UP in result.chosen_heads()
    assert losses(result)["wired-lookup"] == pytest.approx((1.0, 0.0))
    assert set(result.head_sets["ranked_on"]) == {"wired-lookup"}


@pytest.mark.long
def test_heads_that_facts_choose_do_not_carry_look_ups(wired):
    result = lw.head_sets(
        wired, ["wired-lookup", "wired-facts"], "generate", rank_on="wired-facts", **QUIET
    )
    assert result.chosen_heads() == [FACTS]
    assert losses(result)["wired-lookup"][0] == pytest.approx(0.0)


def test_no_item_that_ranks_tests_and_what_asks_for_the_same_stays_together(wired):
    setup = prepare(wired, ["wired-facts", "wired-lookup"], "generate", limit=60, progress=False)
    job = HeadSets(setup, "cost")
    for task in setup.tasks:
        split = job.split_items(task)
        ids = {name: {item.id for item in items} for name, items in split.items()}
        assert not ids[SELECTION] & ids[HELD_OUT]
        assert ids[SELECTION] | ids[HELD_OUT] == {item.id for item in task.items}
        of = {name: {item.cluster for item in items} - {None} for name, items in split.items()}
        assert not of[SELECTION] & of[HELD_OUT]
        assert abs(len(ids[SELECTION]) - len(ids[HELD_OUT])) <= len(task.items) // 4


def test_tested_items_are_those_held_out(wired, by_cost):
    setup = prepare(wired, "wired-lookup", "generate", limit=60, progress=False)
    (task,) = setup.tasks
    held_out = {item.id for item in HeadSets(setup, "cost").split_items(task)[HELD_OUT]}
    rows = by_cost.head_sets.query("task == 'wired-lookup'")
    assert set(rows["item"]) == held_out


@pytest.mark.long
def test_a_model_without_induction_heads_has_no_set(wired):
    result = lw.head_sets(wired, "wired-lookup", "generate", by="induction", **QUIET)
    assert result.head_sets.empty
    assert len(result.ranked_heads) == 40
    assert "no head was chosen" in result.notes()[0]
    with pytest.raises(UserError, match="nothing to draw"):
        result.plot()


def made_up_rows(accuracies: list[float], intact: float = 1.0, n: int = 40) -> pd.DataFrame:
    """Answers of a task without sets of heads, of which given shares are right."""
    shares = [intact, *accuracies]
    return pd.concat([
        pd.DataFrame({
            "by": "cost", "ranked_on": "t", "set": pd.array([at - 1 or 0] * n, dtype="Int64"),
            "intervention": f"set {at}" if at else "intact", "kind": "skip" if at else "intact",
            "task": "t", "capability": "retrieval", "protocol": "generate",
            "item": [f"{item:03}" for item in range(n)],
            "correct": np.arange(n) < round(share * n), "cluster": None,
        })
        for at, share in enumerate(shares)
    ], ignore_index=True)  # fmt: skip


def test_losses_are_shares_above_the_floor_and_beyond_the_mean_of_random_sets():
    table = losses_table(made_up_rows([0.25, 0.75, 0.5]), lambda task, protocol: 0.0)
    first = table.iloc[0]
    assert table["share_lost"].tolist() == pytest.approx([0.75, 0.25, 0.5])
    assert first["more"] == pytest.approx(0.75 - 0.375)
    assert (first["n_random"], first["n_worse"]) == (2, 0)
    assert table["more"].notna().tolist() == [True, False, False]
    paired = np.array([0.5 * 0] * 10 + [0.5] * 10 + [1.0] * 10 + [0.0] * 10)
    assert first["more"] == pytest.approx(paired.mean())
    halved = losses_table(made_up_rows([0.25, 0.75, 0.5]), lambda task, protocol: 0.2)
    assert halved["share_lost"].tolist() == pytest.approx([0.75 / 0.8, 0.25 / 0.8, 0.5 / 0.8])


def test_without_signal_no_loss_is_stated():
    table = losses_table(made_up_rows([0.1, 0.1], intact=0.2), lambda task, protocol: 0.25)
    assert set(table["signal"]) == {False}
    assert table["share_lost"].dropna().tolist() == []
    assert table["p"].dropna().tolist() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_picture_is_legible(by_cost, width):
    table = by_cost.losses()
    more = pd.concat([table, table.assign(by="copying"), table.assign(by="induction")])
    assert_legible(set_losses(more, width=width))


def test_a_page_tells_what_the_set_costs(by_cost):
    page = lw.report([by_cost])
    assert "Sets of heads" in page.html
    assert "head_sets" in page.figures
    assert "cost more than random heads of the same layers" in page.html


def test_bad_input_gets_a_sentence(wired):
    task = "wired-lookup"
    for given, words in (
        ({"share": 0.6}, "share of heads to remove is 0.6"),
        ({"share": 0.0}, "share of heads to remove is 0.0"),
        ({"random_sets": 0}, "0 random sets"),
        ({"by": "size"}, "size"),
        ({"by": "induction", "rank_on": "retrieval"}, "found on random tokens"),
        ({"rank_on": "facts"}, r"None of the tasks \(wired-lookup\)"),
        ({"limit": 1}, "ask for one thing"),
    ):
        options: Any = {**QUIET, **given}
        with pytest.raises(UserError, match=words):
            lw.head_sets(wired, task, "generate", **options)
    seq2seq = tiny_seq2seq(next(iter(CASES)))
    with pytest.raises(UserError, match="encoder-decoder"):
        lw.head_sets(seq2seq, "arithmetic", "generate", limit=4, fewshot=0, progress=False)


@pytest.mark.long
def test_sets_that_cost_the_same_are_rarely_told_apart():
    """A test over items of the chosen heads beside random sets that cost as much."""
    n_runs, rng = data_sets(20), np.random.default_rng(0)
    world = next(one for one in head_worlds() if one.name == "sets of heads all alike")
    found = 0
    for _ in range(n_runs):
        losses = losses_table(made_up_head_sets(rng, world), lambda task, protocol: 0.0)
        found += bool((losses["p_holm"] < 0.05).any())
    assert found <= most_errors(n_runs)
