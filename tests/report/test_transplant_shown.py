"""What is said and drawn of a transplant, against made-up answers whose gap is known."""

from __future__ import annotations

import numpy as np
import pytest
from legible import WIDTHS, assert_legible

from layerwise.analyses.transplant.figures import moved_by_head, moved_by_layer
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.rows import rows
from layerwise.report import report
from layerwise.report.summary import findings
from tests.transplanting import both, joined_results, transplant_result, with_activations

N = 40
WORSE, BETTER = np.arange(N) < 10, np.arange(N) < 38
PART = np.arange(N) < 26


def result(gains=None, losses=None, n_layers=6, **options):
    """Nothing moves but with some layers."""
    changed = {k: (gains or {}).get(k, WORSE) for k in range(n_layers)}
    returned = {k: (losses or {}).get(k, BETTER) for k in range(n_layers)}
    return transplant_result(WORSE, BETTER, both(changed, returned), **options)


def only_sentence(one):
    (found,) = [f for f in findings([one]) if f.kind == "transplant"]
    return found.full


def test_a_layer_that_brings_and_destroys_carries():
    made = result({3: BETTER}, {3: WORSE})
    told = only_sentence(made)
    assert told.startswith(
        "Layer 3 carries what the other model (trained) can do and the base (made-up) cannot in "
        "keys (continuation): of its lead of 70 ["
    )
    assert (
        "the only one of 6 layers that does so (the larger of both p < 0.001 after Holm's" in told
    )
    assert "over all 12 tests of the run; bounds for all 12 tests" in told
    assert told.endswith("n = 40).")
    row = made.effects().query("layer == 3 and direction == 'brings'").iloc[0]
    points = "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * row[["moved", "run_low", "run_high"]]))
    assert f"its own put into the other brings {points}" in told


def test_a_layer_that_only_brings_is_not_said_to_be_needed():
    told = only_sentence(result({2: PART}))
    assert told.startswith("Layer 2 of the other model (trained), put into the base (made-up), ")
    assert "brings 40 [" in told
    assert "that the lead is lost without it is not established" in told


def test_a_layer_that_only_destroys_may_not_fit():
    told = only_sentence(result(losses={1: WORSE, 4: PART}))
    assert told.startswith("Layer 1 of the base (made-up), put into the other model (trained), ")
    assert "destroys 70 [" in told
    assert "it may be needed there, or not fit" in told
    assert "the strongest of 2 such layers of 6" in told


def test_where_nothing_moves_it_is_said_how_little_that_excludes():
    told = only_sentence(result())
    assert told.startswith("No single layer is established to move the lead of the other model")
    assert "0 [" in told
    assert "bounds for all 12 tests of the run together" in told


def test_moves_below_what_is_of_interest_make_no_claim():
    small = result({3: BETTER}, {3: WORSE})
    settings = small.facts.settings | {"smallest_loss": 0.9}
    facts = small.facts.model_copy(update={"settings": settings})
    told = only_sentence(type(small)(small.transplant, small.transplant_distances, facts))
    assert told.startswith("No single layer")


def test_without_a_gap_no_layer_is_named():
    same = transplant_result(BETTER, BETTER, {})
    told = only_sentence(same)
    assert told == (
        "Between the base (made-up) and the other model (trained) there is no gap to move in keys "
        "(continuation: 95 and 95 % right): neither is established to be better than the other "
        "and than guessing (n = 40), and no layers were exchanged."
    )


def test_sentences_stand_on_rows_that_they_quote():
    made = joined_results(
        result({3: BETTER}, {3: WORSE}), transplant_result(BETTER, BETTER, {}, task="b")
    )
    told = [one for one in findings([made]) if one.kind == "transplant"]
    assert len(told) == 2
    for finding in told:
        source = finding.source
        quoted = rows(rows(made.derived()[source["table"]], **source["where"]), **source["at"])
        assert len(quoted) == (2 if source["table"] == "transplant_effects" else 1)


def streams(gains=None, **options):
    return result(gains, exchange="activations", **options)


def told_of_streams(one):
    (found,) = [f.full for f in findings([one]) if "residual stream" in f.full]
    return found


def test_a_stream_is_told_beside_the_weights_of_its_layer():
    behind = dict.fromkeys(range(2, 6), BETTER)
    alone = told_of_streams(with_activations(result(), streams(behind)))
    assert alone.startswith(
        "The residual stream after layer 2 of the other model (trained), put into the base "
        "(made-up), brings 70 ["
    )
    assert "the first of which that is established (after layer 1: 0 [" in alone
    assert "; that the weights of that layer alone bring any is not established (0 [" in alone
    assert "it may be what reaches the layer" in alone
    with_weights = told_of_streams(with_activations(result({2: BETTER}), streams(behind)))
    assert "; the weights of that layer alone bring 70 [" in with_weights
    assert "weights" not in told_of_streams(streams(behind))
    first = told_of_streams(streams(dict.fromkeys(range(6), BETTER)))
    assert "first of which" not in first


def test_where_no_stream_moves_the_lead_none_is_named():
    (told,) = [f.full for f in findings([streams()]) if f.kind == "transplant"]
    assert told.startswith("What leaves no single layer is established to move the lead")


def test_outputs_of_sublayers_are_named():
    made = result({3: BETTER}, {3: WORSE}, exchange="activations", site="mlp_out")
    told = only_sentence(made)
    assert told.startswith("The MLP output of layer 3 is where the other model (trained) can do")


def test_layers_of_two_stacks_are_named():
    told = only_sentence(result({3: BETTER}, {3: WORSE}, n_encoder=2))
    assert told.startswith("Layer decoder.1 carries")


def shown():
    rng = np.random.default_rng(0)
    noisy = {k: np.where(rng.random(N) < 0.2, rng.permutation(WORSE), WORSE) for k in range(6)}
    back = {k: np.where(rng.random(N) < 0.2, rng.permutation(BETTER), BETTER) for k in range(6)}
    first = result(noisy | {3: PART}, back | {3: WORSE})
    second = result(noisy | {3: BETTER}, back, protocol="generate")
    other = result({1: PART}, {1: PART}, task="sums", capability="reasoning")
    return joined_results(first, second, other)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_figure_is_legible_and_shows_every_share(width):
    made = shown()
    with naming_layers_of(made.facts.model):
        figure = moved_by_layer(made.effects(), width=width)
    assert_legible(figure)
    effects = made.effects()
    for direction in ("brings", "destroys"):
        of = rows(effects, task="keys", protocol="generate", direction=direction)
        drawn = next(
            line for axes in figure.axes[:1] for line in axes.lines
            if line.get_gid() == f"{direction} generate"
        )  # fmt: skip
        np.testing.assert_allclose(drawn.get_ydata(), 100 * of.sort_values(by="layer")["share"])


def heads(gains=None, losses=None, site="z", **options):
    """Nothing moves but with some heads of four layers with four heads."""
    places = [(layer, head) for layer in range(4) for head in range(4)]
    changed = {place: (gains or {}).get(place, WORSE) for place in places}
    returned = {place: (losses or {}).get(place, BETTER) for place in places}
    return transplant_result(WORSE, BETTER, both(changed, returned), site=site, **options)


def test_a_head_is_named_by_its_layer_and_number():
    made = heads({(3, 1): BETTER}, {(3, 1): WORSE})
    told = only_sentence(made)
    assert told.startswith("Head 3.1 carries what the other model (trained) can do")
    assert "the only one of 16 heads that does so" in told
    groups = heads({(3, 1): PART, (2, 0): PART}, site="kv_group", n_encoder=2)
    told = only_sentence(groups)
    assert told.startswith("Key/value group decoder.")
    assert "of the other model" in told
    assert "the strongest of 2 such key/value groups of 16" in told
    assert only_sentence(heads(site="cross_z")).startswith(
        "No single cross-attention head is established to move"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_map_of_heads_is_legible_and_marks_what_moves(width):
    made = joined_results(
        heads({(3, 1): BETTER}, {(3, 1): WORSE}),
        heads({(1, 0): PART}, {(2, 2): PART}, task="sums", capability="reasoning"),
    )
    for direction in ("brings", "destroys"):
        figure = moved_by_head(made.effects(), direction, width=width)
        assert_legible(figure)
        marked = [
            tuple(np.concatenate(line.get_xydata()) - 0.5)
            for axes in figure.axes for line in axes.lines if line.get_gid() == "marked"
        ]  # fmt: skip
        expected = {"brings": [(1, 3), (0, 1)], "destroys": [(1, 3), (2, 2)]}[direction]
        assert sorted(marked) == sorted(expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_of_activations_say_so(width):
    made = with_activations(result({3: BETTER}), streams(dict.fromkeys(range(3, 6), BETTER)))
    figure = moved_by_layer(made.effects(), width=width, exchange="activations")
    assert_legible(figure)
    said = " ".join(text.get_text() for text in figure.texts)
    assert "What moves with the residual stream after one layer" in " ".join(said.split())
    line = next(x for x in figure.axes[0].lines if x.get_gid() == "brings continuation")
    np.testing.assert_allclose(line.get_ydata(), [0, 0, 0, 100, 100, 100])


def test_the_page_shows_both_maps_of_heads():
    page = report(heads({(3, 1): BETTER}, {(3, 1): WORSE})).html
    assert "with one head: the better model&#39;s put into the other" in page
    assert "with one head: the other model&#39;s put into the better model" in page
    assert "that moves with layers" not in page


def test_the_page_has_its_part_with_tables():
    page = report(shown()).html
    assert 'id="transplant"' in page
    for words in ("What moves with which layers", "The gap between the two models",
                  "Is where weights differ most where the gap moves most?",
                  "Distance of weights"):  # fmt: skip
        assert words in page
