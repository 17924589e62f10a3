"""Sentences and figures of a transplant, against made-up answers whose gap is known."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.analyses.transplant.figures import gap_share_by_head, gap_share_by_layer
from layerwise.presentation.rows import rows
from layerwise.report import report
from layerwise.report.html import findings
from tests.transplanting import answers_of_both, joined_results, transplant_result, with_activations

N = 40
WORSE, BETTER = np.arange(N) < 10, np.arange(N) < 38
PART = np.arange(N) < 26


def result(gains=None, losses=None, n_layers=6, **options):
    """Nothing moves but with some layers."""
    changed = {k: (gains or {}).get(k, WORSE) for k in range(n_layers)}
    returned = {k: (losses or {}).get(k, BETTER) for k in range(n_layers)}
    return transplant_result(WORSE, BETTER, answers_of_both(changed, returned), **options)


def only_claim(one):
    (found,) = [f for f in findings([one]) if f.kind == "transplant"]
    return found


def test_a_layer_that_brings_and_destroys_carries():
    made = result({3: BETTER}, {3: WORSE})
    claim = only_claim(made)
    assert claim.short == "The lead of the other model in keys when it chooses lies in layer 3."
    assert (claim.evidence, claim.layers, claim.items) == ("established", (3,), "40 items")
    of_layer = made.effects().query("layer == 3")
    assert claim.p == of_layer["p_run"].max() < 0.001
    row = of_layer.query("direction == 'brings'").iloc[0]
    assert claim.estimate[:3] == pytest.approx(list(100 * row[["moved", "run_low", "run_high"]]))
    row = of_layer.query("direction == 'destroys'").iloc[0]
    points = "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * row[["moved", "run_low", "run_high"]]))
    assert f"destroys {points} points" in claim.full


def test_where_nothing_moves_it_is_said_how_little_that_excludes():
    claim = only_claim(result())
    assert claim.short.startswith(
        "None of 6 exchanges is established to move the lead of the other"
    )
    assert claim.evidence == "not established"
    assert claim.estimate.low < claim.estimate.value == 0 < claim.estimate.high


def test_moves_below_what_is_of_interest_make_no_claim():
    small = result({3: BETTER}, {3: WORSE})
    settings = small.facts.settings | {"smallest_loss": 0.9}
    facts = small.facts.model_copy(update={"settings": settings})
    claim = only_claim(type(small)(small.transplant, small.transplant_distances, facts))
    assert claim.short.startswith("None of 6 exchanges")


def test_without_a_gap_no_layer_is_named():
    claim = only_claim(transplant_result(BETTER, BETTER, {}))
    assert claim.short.startswith("There is no gap to move between the two models")
    assert claim.layers == ()


def test_sentences_stand_on_rows_that_they_quote():
    made = joined_results(
        result({3: BETTER}, {3: WORSE}), transplant_result(BETTER, BETTER, {}, task="b")
    )
    told = [one for one in findings([made]) if one.kind == "transplant"]
    assert len(told) == 2
    for finding in told:
        source = finding.source
        quoted = rows(
            rows(made.derived_tables()[source["table"]], **source["where"]), **source["at"]
        )
        assert len(quoted) == (2 if source["table"] == "transplant_effects" else 1)


def streams(gains=None, **options):
    return result(gains, exchange="activations", **options)


def told_of_streams(one):
    (found,) = [f.full for f in findings([one]) if "residual stream" in f.full]
    return found


@pytest.mark.long
def test_a_stream_is_told_beside_the_weights_of_its_layer():
    behind = dict.fromkeys(range(2, 6), BETTER)
    alone = told_of_streams(with_activations(result(), streams(behind)))
    assert alone.startswith("With the residual stream after layer 2 of the other model")
    assert "The weights of that layer alone bring 0 [" in alone
    with_weights = told_of_streams(with_activations(result({2: BETTER}), streams(behind)))
    assert "The weights of that layer alone bring 70 [" in with_weights
    assert "weights" not in told_of_streams(streams(behind))


def layers_that_move():
    rng = np.random.default_rng(0)
    noisy = {k: np.where(rng.random(N) < 0.2, rng.permutation(WORSE), WORSE) for k in range(6)}
    back = {k: np.where(rng.random(N) < 0.2, rng.permutation(BETTER), BETTER) for k in range(6)}
    first = result(noisy | {3: PART}, back | {3: WORSE})
    second = result(noisy | {3: BETTER}, back, protocol="generate")
    other = result({1: PART}, {1: PART}, task="sums", capability="reasoning")
    return joined_results(first, second, other)


@pytest.mark.long
def test_the_figure_shows_every_share():
    effects = layers_that_move().effects()
    figure = gap_share_by_layer(effects)
    for direction, filled in (("brings", "sure"), ("destroys", "unsure")):
        of = rows(effects, task="keys", protocol="generate", direction=direction)
        drawn = next(
            line for axes in figure.axes[:1] for line in axes.lines
            if line.get_gid() == f"{filled} {direction} generate"
        )  # fmt: skip
        np.testing.assert_allclose(drawn.get_ydata(), 100 * of.sort_values(by="layer")["share"])


def heads(gains=None, losses=None, site="z", **options):
    """Nothing moves but with some heads of four layers with four heads."""
    places = [(layer, head) for layer in range(4) for head in range(4)]
    changed = {place: (gains or {}).get(place, WORSE) for place in places}
    returned = {place: (losses or {}).get(place, BETTER) for place in places}
    return transplant_result(
        WORSE, BETTER, answers_of_both(changed, returned), site=site, **options
    )


@pytest.mark.long
def test_a_head_is_named_by_its_layer_and_number():
    claim = only_claim(heads({(3, 1): BETTER}, {(3, 1): WORSE}))
    assert claim.short.endswith("lies in head 3.1.")
    groups = heads({(3, 1): PART, (2, 0): PART}, site="kv_group", n_encoder=2)
    assert only_claim(groups).short.startswith("With key/value group decoder.")
    assert "cross-attention head" in only_claim(heads(site="cross_z")).full


def heads_that_move():
    return joined_results(
        heads({(3, 1): BETTER}, {(3, 1): WORSE}),
        heads({(1, 0): PART}, {(2, 2): PART}, task="sums", capability="reasoning"),
    )


def test_the_map_of_heads_marks_what_moves():
    for direction in ("brings", "destroys"):
        figure = gap_share_by_head(heads_that_move().effects(), direction)
        marked = [
            tuple(np.concatenate(line.get_xydata()) - 0.5)
            for axes in figure.axes for line in axes.lines if line.get_gid() == "significant"
        ]  # fmt: skip
        expected = {"brings": [(1, 3), (0, 1)], "destroys": [(1, 3), (2, 2)]}[direction]
        assert sorted(marked) == sorted(expected)


def test_the_page_has_its_part_with_tables():
    page = report(layers_that_move()).html
    assert 'id="transplant"' in page
    for words in ("What moves with which layers", "The gap between the two models",
                  "Is where weights differ most where the gap moves most?",
                  "Distance of weights"):  # fmt: skip
        assert words in page


@pytest.mark.parametrize(
    ("gains", "losses", "start", "caveat"),
    [
        ({2: PART}, None, "With layer 2 of the other model, the base gains 40 points",
         "That the lead is lost without it is not established"),
        (None, {1: WORSE, 4: PART}, "With layer 1 of the base, the other model loses 70 points",
         "it may be needed there, or not fit"),
    ],
)  # fmt: skip
def test_a_layer_that_only_brings_or_only_destroys_does_not_carry(gains, losses, start, caveat):
    claim = only_claim(result(gains, losses))
    assert claim.short.startswith(start)
    assert caveat in claim.caveat
