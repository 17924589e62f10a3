"""The test of interaction finds what is planted, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layerwise import stats
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.emergence.protocol_interaction import (
    interaction_p,
    interaction_rows,
    layer_groups,
)
from layerwise.errors import UserError
from layerwise.stats.depth.layer_curves import Sampling
from tests import synthetic
from tests.cases import data_sets, in_long_runs, most_errors
from tests.synthetic import cell_records

CHANCE = {"letter": 0.25, "generate": 0.0}
GROUPS = {"early": [0, 1], "middle": [2, 3], "late": [4, 5]}


def answers(
    shares: np.ndarray, accuracy: float, chance: float, item: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Intact, then each layer skipped: it takes ``shares`` of what is above chance.

    ``item`` is how hard each item is, so that protocols that share it are hard for the same.
    """
    intact = item < accuracy
    guessed = rng.random((len(item), len(shares))) < chance
    hit = rng.random((len(item), len(shares))) < shares
    return np.column_stack([intact, np.where(hit, guessed, intact[:, None])])


def two_protocol_records(
    letter: list[float], generate: list[float], rng: np.random.Generator, n: int = 60,
    task: str = "keys", accuracy: tuple[float, float] = (0.95, 0.75),
    floors: tuple[float, float] | None = None,
) -> list[pd.DataFrame]:  # fmt: skip
    """Records under both protocols; with ``floors`` also what is right without any layer."""
    item, cells = rng.random(n), []
    for i, (protocol, shares) in enumerate((("letter", letter), ("generate", generate))):
        level = CHANCE[protocol] if floors is None else floors[i]
        right = answers(np.array(shares), accuracy[i], level, item, rng)
        none = None if floors is None else rng.random(n) < level
        cells.append(cell_records(right, task, "retrieval", protocol, no_layers=none))
    return cells


def rows(
    cells: list[pd.DataFrame], n_resamples: int = 2, chance: dict[str, float] = CHANCE
) -> pd.DataFrame:
    records, sampling = pd.concat(cells, ignore_index=True), Sampling(0, n_resamples, 6)
    found = interaction_rows(records, lambda _, protocol: chance[protocol], GROUPS, sampling)
    return pd.DataFrame(found)


NULLS = {
    "nothing matters": ([0.0] * 6, [0.0] * 6),
    "the same matters": ([0.7, 0.1, 0.0, 0.0, 0.3, 0.0], [0.7, 0.1, 0.0, 0.0, 0.3, 0.0]),
    "all matter more": ([0.5, 0.1, 0.0, 0.1, 0.2, 0.1], [0.7, 0.3, 0.2, 0.3, 0.4, 0.3]),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "null", [*in_long_runs(("nothing matters",)), "the same matters", "all matter more"]
)
def test_no_more_false_claims_than_stated(null):
    n_sets = data_sets(120)
    found = [
        rows(two_protocol_records(*NULLS[null], np.random.default_rng(i)))["p"][0]
        for i in range(n_sets)
    ]
    claims = sum(p < 0.05 for p in found)
    assert claims <= most_errors(n_sets)
    if null != "nothing matters":  # where something varies, the level is also reached
        assert 0.35 < np.mean(found) < 0.65


@pytest.mark.long
@pytest.mark.parametrize(
    ("accuracy", "floors", "broken"),
    [
        ((1.0, 0.8), (0.4, 0.0), [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        *in_long_runs(((1.0, 1.0), (0.25, 0.0), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
                      ((0.85, 0.9), (0.25, 0.1), [0.7, 0.5, 0.0, 0.0, 0.0, 0.3])),
    ],
)  # fmt: skip
def test_layers_that_break_both_protocols_are_no_interaction(accuracy, floors, broken):
    """However far a broken model falls under either; against stated chance all were claimed.

    Stated chance is wrong on purpose: of four options, and 1/3 where texts are written.
    """
    n_sets, p = data_sets(160), []
    for seed in range(n_sets):
        cells = two_protocol_records(
            broken, broken, np.random.default_rng(seed), accuracy=accuracy, floors=floors
        )
        p.append(rows(cells, chance={"letter": 0.25, "generate": 1 / 3})["p"][0])
    assert sum(value < 0.05 for value in p) <= most_errors(n_sets)


def test_a_planted_interaction_is_found_in_its_groups():
    cells = two_protocol_records(
        [0.9, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0.9], np.random.default_rng(0), n=100
    )
    found = rows(cells, 1000).set_index("group")
    assert (found["p_holm"] < 0.001).all()
    assert found.loc["early", "difference"] == pytest.approx(0.45, abs=0.08)
    assert found.loc["middle", "difference"] == 0
    assert found.loc["late", "difference"] == pytest.approx(-0.45, abs=0.08)
    assert found.loc["early", "low"] > 0.3
    assert found.loc["late", "high"] < -0.3
    assert found.loc["early", "share_first"] == pytest.approx(0.45, abs=0.08)
    assert found["layers"].tolist() == list(GROUPS.values())


def test_a_common_shift_is_no_interaction():
    letter = np.ones((40, 7), bool)
    generate = letter.copy()
    generate[::2, 1:], generate[1::2, 1:] = True, False
    found = rows([cell_records(letter, "keys", "retrieval"),
                  cell_records(generate, "keys", "retrieval", "generate")])  # fmt: skip
    assert (found["difference"] == -0.5).all()
    assert (found["p"] == 1).all()


def test_the_p_value_is_that_of_all_flips_one_by_one():
    rng = np.random.default_rng(2)
    differences = rng.normal(0.2, 1, (9, 3)) * [1, 0.2, 2]
    contrasts = differences - differences.mean(axis=1, keepdims=True)
    every = [
        np.linalg.norm(np.array(signs) @ contrasts)
        for signs in np.array(np.meshgrid(*[[-1, 1]] * 9)).reshape(9, -1).T
    ]
    reached = np.mean(np.array(every) >= every[-1] - 1e-12)
    assert every[-1] == pytest.approx(np.linalg.norm(contrasts.sum(axis=0)))
    assert interaction_p(differences, 0) == pytest.approx(reached)


def test_shares_and_their_pseudo_values_agree_with_a_plain_count():
    cells = two_protocol_records(
        [0.5, 0, 0.2, 0, 0, 0.1], [0.2, 0, 0, 0.4, 0, 0], np.random.default_rng(3)
    )
    found = rows(cells, 400).set_index("group")
    for name, column in (("letter", "share_first"), ("generate", "share_second")):
        table = next(c for c in cells if c["protocol"].iloc[0] == name)
        accuracy = table.groupby(table["layer"].fillna(-1))["correct"].mean()
        lost = (accuracy[-1] - accuracy) / (accuracy[-1] - CHANCE[name])
        for group, layers in GROUPS.items():
            assert found.loc[group, column] == pytest.approx(lost[layers].mean())
    assert (found["low"] <= found["difference"]).all()
    assert (found["difference"] <= found["high"]).all()


@pytest.mark.long
@pytest.mark.slow
def test_intervals_cover_the_truth():
    covered, n_sets = 0, data_sets(100)
    for i in range(n_sets):
        cells = two_protocol_records(
            [0.6, 0, 0, 0, 0, 0.2], [0.2, 0, 0, 0, 0, 0.4], np.random.default_rng(i), 80
        )
        found = rows(cells, 300)
        truth = np.array([0.2, 0.0, -0.1])
        covered += (found["low"] <= truth).to_numpy() & (found["high"] >= truth).to_numpy()
    assert (n_sets - covered <= most_errors(n_sets)).all()


def test_tasks_have_the_same_weight_and_other_items_are_not_compared():
    rng = np.random.default_rng(4)
    large = two_protocol_records([0.8, 0, 0, 0, 0, 0], [0.0] * 6, rng, 200, "large")
    small = two_protocol_records([0.0] * 6, [0.0] * 6, rng, 50, "small")
    alone, both = rows(large), rows([*large, *small])
    assert both["difference"][0] == pytest.approx(alone["difference"][0] / 2)
    assert both["tasks"].eq("large,small").all()
    assert both["n_items"].eq(250).all()
    fewer = small[1].loc[small[1]["item"] != small[1]["item"].iloc[0]]
    assert rows([*large, small[0], fewer])["tasks"].eq("large").all()


def test_nothing_is_said_without_signal_under_both():
    rng = np.random.default_rng(5)
    letter, generate = two_protocol_records([0.5] + [0] * 5, [0.5] + [0] * 5, rng)
    dull = letter.assign(correct=(np.arange(len(letter)) % 4 == 0))
    assert rows([dull, generate]).empty
    assert rows([letter]).empty
    gaps = generate.loc[generate["layer"].fillna(0) != 3]
    assert rows([letter, gaps]).empty
    right = np.ones((30, 2), bool)
    right[:, 1] = False  # a model of one layer has no groups to compare
    cells = [cell_records(right, "keys", "retrieval", name) for name in CHANCE]
    one_layer = emergence([synthetic.ablation(*cells)], n_resamples=20)
    assert one_layer.protocol_interaction.empty


def test_many_comparisons_are_corrected_for():
    rng = np.random.default_rng(6)
    protocols = ("letter", "continuation", "generate")
    cells = [
        cell_records(
            synthetic.planted_answers(rng, 40, 6, (layer,), 0.95), f"of {name}", name, protocol
        )
        for name in ("retrieval", "knowledge")
        for layer, protocol in zip((0, 0, 5), protocols, strict=True)
    ]
    found = emergence([synthetic.ablation(*cells)], n_resamples=50).protocol_interaction
    pairs = found.drop_duplicates(["capability", "first", "second"])
    assert len(pairs) == 6
    assert pairs["capability"].tolist() == ["retrieval"] * 3 + ["knowledge"] * 3
    assert pairs["p_holm"].tolist() == pytest.approx(stats.holm(pairs["p"].to_numpy()).tolist())
    apart = pairs["second"] == "generate"
    assert (pairs["p_holm"] < 0.05).tolist() == apart.tolist()


def test_groups_are_thirds_or_as_asked():
    assert layer_groups(8) == {"early": [0, 1, 2], "middle": [3, 4, 5], "late": [6, 7]}
    assert layer_groups(2) == {"early": [0], "late": [1]}
    assert len(layer_groups(1)) == 1
    for wrong in ({"a": [0, 1], "b": [1]}, {"a": [0], "b": [8]}, {"a": [0], "b": []}, {"a": [0]}):
        with pytest.raises(UserError, match="Layer groups must be two or more, none of them"):
            layer_groups(8, wrong)
    cells = two_protocol_records([0.9, 0, 0, 0, 0, 0], [0.0] * 6, np.random.default_rng(7))
    halves = {"first": range(3), "last": [3, 4, 5]}
    found = emergence([synthetic.ablation(*cells)], n_resamples=20, groups=halves)
    assert found.protocol_interaction["group"].tolist() == ["first", "last"]


def test_groups_in_which_no_answer_changed_are_not_known_exactly():
    """Bounds of 40 items for a share that is 0 in all resamples: the joint bounds."""
    right = np.ones((40, 10), bool)
    right[:, 1 + 4] = False
    tables = [
        synthetic.cell_records(right, "keys", "retrieval", protocol=protocol)
        for protocol in ("letter", "generate")
    ]
    found = emergence([synthetic.ablation(*tables)], n_resamples=200).protocol_interaction
    (early,) = found.query("group == 'early'").to_dict("records")
    assert early["share_first"] == early["difference"] == 0
    assert -0.2 < early["share_first_low"] < -0.08
    assert 0.08 < early["share_first_high"] < 0.2
    assert early["low"] == early["share_first_low"] - early["share_second_high"]
    assert early["high"] == early["share_first_high"] - early["share_second_low"]
