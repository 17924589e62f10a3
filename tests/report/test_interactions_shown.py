"""Sentences and figures of interactions, against made-up costs whose interactions are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from legible import words
from matplotlib.collections import QuadMesh

from layerwise.analyses.interactions.figures import interaction_triangles
from layerwise.errors import UserError
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.rows import rows
from layerwise.report import report
from layerwise.report.html import findings
from layerwise.storage.parquet import frame
from tests.interacting import Costs, interactions_result, with_pairs

PLANTED = {(2, 7): 2.0, (1, 4): -1.0}


def planted_interactions(n_layers=8, n=40, planted=None, seed=0, **options):
    """Costs in which some pairs interact, and others vary about 0."""
    rng, pairs = np.random.default_rng(seed), list(combinations(range(n_layers), 2))
    beyond = 0.05 * rng.normal(size=(n, len(pairs)))
    for pair, value in (PLANTED if planted is None else planted).items():
        beyond[:, pairs.index(pair)] += value
    singles = rng.random(n_layers) + 0.1 * rng.normal(size=(n, n_layers))
    return interactions_result(with_pairs(singles, beyond), **options)


def test_pairs_that_cost_more_like_all_others_do_not_stand_in_for_each_other():
    every = dict.fromkeys(combinations(range(5), 2), 1.0)
    (claim,) = findings([planted_interactions(5, planted=every)])
    assert "more together than apart" not in claim.full
    assert "does not single these two out" in claim.full


def at_floor(lost: dict[int, bool], n: int = 40):
    """Two layers that each take 3 nats, all there is; accuracy is gone without some of them."""
    costs = with_pairs(np.full((n, 3), 3.0), np.array([[-3.0, 0.0, 0.0]] * n))
    gone = {layers: any(lost[layer] for layer in layers) for layers in costs}
    right: Costs = {layers: np.full(n, not gone[layers]) for layers in costs}
    return interactions_result(costs, right=right)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({0: True, 1: True, 2: False}, "Without either it guesses, with little left"),
        ({0: False, 1: True, 2: False}, "Without layer 1 it guesses, with little left"),
        ({0: False, 1: False, 2: False}, "Part of what one gives is gone without the other"),
    ],
)
def test_an_overlap_at_the_floor_is_worded_as_such(lost, said):
    (found,) = findings([at_floor(lost)])
    assert found.short.startswith("On keys, layers 0 and 1 overlap")
    assert ("but one alone leaves it guessing" in found.short) == any(lost.values())
    assert said in found.full


def test_where_nothing_interacts_the_strongest_pair_is_told_with_its_interval():
    (claim,) = findings([planted_interactions(planted={})])
    assert claim.evidence == "not established"
    assert "the strongest interaction is that of layers" in claim.full
    assert claim.estimate is not None


def test_what_is_sure_and_too_small_to_matter_makes_no_sentence():
    rng = np.random.default_rng(0)
    beyond = 0.002 * rng.normal(size=(40, 3)) + [0.05, 0.0, 0.0]
    result = interactions_result(with_pairs(1 + 0.1 * rng.normal(size=(40, 3)), beyond))
    assert (result.pairs()["verdict"] == "redundant").any()
    (claim,) = findings([result])
    assert claim.evidence == "not established"


def test_layers_of_two_stacks_are_named():
    result = planted_interactions(6, planted={}, n_encoder=3)
    with model_layer_names(result.facts.model):
        figure = interaction_triangles(result.pairs(), width=3.3)
    assert {"encoder", "decoder"} <= set(words(figure).splitlines())


def test_cells_are_the_table_and_marks_its_verdicts():
    result = planted_interactions()
    figure = result.plot()
    axes = figure.axes[0]
    (mesh,) = axes.findobj(QuadMesh)
    assert mesh.norm.vmin == -mesh.norm.vmax
    shown = np.ma.filled(mesh.get_array().reshape(7, 7), np.nan)
    for row in result.pairs().query("measure == 'nats'").itertuples():
        assert shown[row.second_layer - 1, row.first_layer] == row.interaction
    assert np.isnan(shown).sum() == 21
    marks = {line.get_gid(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert marks == {"redundant": [[2.5, 6.5]], "overlapping": [[1.5, 3.5]]}


def test_there_is_nothing_to_draw_without_signal():
    with pytest.raises(UserError, match="nothing to draw"):
        planted_interactions(accuracy=0.2).plot()


def test_a_page_has_a_part_with_figures_tables_and_evidence():
    orders = frame(
        "interaction_orders",
        [{"permutation": 0, "place": place, "layer": layer} for place, layer in enumerate((1, 0))],
    )
    page = report([planted_interactions(2, planted={(0, 1): 2.0}, orders=orders)])
    assert "What costs more together than apart" in page.html
    assert "rows of interaction_pairs (estimates.parquet)" in page.html
    assert "layers 0 and 1" in page.html
    assert {"interactions", "shapley_pairs", "shapley_permutations"} <= set(page.figures)
    assert "from sampled orders of removal" in page.html


def test_a_page_of_accuracies_alone_gives_no_verdict():
    result = planted_interactions(3, planted={}, protocol="generate")
    costs = result.interactions.assign(gold_logprob=np.nan, margin=np.nan)
    changed = type(result)(costs, result.interaction_orders, result.facts)
    page = report([changed])
    assert "What costs more together than apart" in page.html
    assert "more together than apart when" not in page.html
    assert findings([changed]) == []


def test_redundant_and_overlapping_layers_are_told_with_their_rows():
    result = planted_interactions()
    claims = redundant, overlapping = findings([result])
    row = result.pairs().query("measure == 'nats' and first_layer == 2 and second_layer == 7")
    estimate, low, high, p = row[["interaction", "run_low", "run_high", "p_run"]].iloc[0]
    assert "layers 2 and 7 cost" in redundant.short
    assert redundant.estimate is not None
    assert redundant.estimate[:3] == pytest.approx((estimate, low, high))
    assert (redundant.evidence, redundant.p, redundant.items) == ("established", p, "40 items")
    assert redundant.caveat.startswith("Each may do the other's work; or")
    assert "layers 1 and 4 overlap" in overlapping.short
    assert overlapping.layers == (1, 4)
    for claim in claims:
        table = result.derived_tables()[claim.source["table"]]
        quoted = rows(rows(table, **claim.source["where"]), **claim.source["at"])
        assert sorted(quoted["measure"]) == ["accuracy", "margin", "nats"]
