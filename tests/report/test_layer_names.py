"""Layers of an encoder-decoder have their stack's names in figures, sentences and tables."""

from __future__ import annotations

import re

import numpy as np
import pytest
import synthetic
from conftest import MODEL_OF_TWO_STACKS as MODEL
from conftest import N_ENCODER, SMALL
from legible import texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.naming import model_layer_names, name_intervention, name_layer
from layerwise.presentation.wording import layer_ranges
from layerwise.report import Report, report
from layerwise.results import ModelFacts

# Figures without an axis of layers or of depth.
WITHOUT = (
    "method_agreement",
    "protocol_interaction",
    "emergence_within_stacks",
    "state_traces",
)


@pytest.fixture(scope="module")
def page() -> Report:
    return report(synthetic.results(SMALL, model=MODEL))


def lines(figure: Figure) -> list[tuple[Axes, float]]:
    """The lines between stacks: their panel, and where they stand along its axis."""
    found = []
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_gid() == "encoder | decoder":
                x, y = (np.ravel(get()) for get in (line.get_xdata, line.get_ydata))
                found.append((axes, float(x[0] if x[0] == x[-1] else y[0])))
    return found


@pytest.mark.long
def test_every_figure_of_layers_has_the_line_and_the_names(page: Report):
    assert len(page.figures) > 5
    for name, figure in page.figures.items():
        written = {text.get_text() for text in texts(figure)}
        there = name not in WITHOUT
        assert bool(lines(figure)) == there, name
        assert ({"encoder", "decoder"} <= written) == there, name


@pytest.mark.long
def test_the_line_lies_between_the_last_encoder_layer_and_the_first_decoder_layer(page: Report):
    depth = (N_ENCODER - 0.5) / (SMALL.n_layers - 1)
    places = {
        "role_map_skip_layer": N_ENCODER,
        "patching_resid_pre": N_ENCODER,
        "accuracy_skip_layer": N_ENCODER - 0.5,
        "lens_letter": N_ENCODER - 0.5,
        "emergence": depth,
        "prediction_depth": depth,
    }
    for name, place in places.items():
        assert {at for _, at in lines(page.figures[name])} == {place}, name


def test_layers_are_numbered_within_their_stack(page: Report):
    figure = page.figures["role_map_skip_layer"]
    (axes,) = (axes for axes in figure.axes if axes.get_xlabel() == "layer")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "0", "1", "2", "3"]


def test_sentences_and_tables_name_the_stack(page: Report):
    told = " ".join(finding.full for finding in page.findings)
    assert "layer encoder.0" in told
    assert "decoder.1" in told
    assert "Layer decoder.3</span>" in page.html
    assert "<td>skip:layer=decoder.3</td>" in page.html
    # Under a sentence stand the file's own values, and how it counts layers.
    apart = re.split(r'(<ul class="claims">.*?</ul>)', page.html, flags=re.DOTALL)
    assert "<td>skip:layer=3</td>" not in "".join(apart[::2])
    n = "".join(apart[1::2]).count("Layers are counted from the encoder")
    assert n == len(page.findings)


def test_ranges_stop_at_the_decoder():
    with model_layer_names(MODEL):
        assert layer_ranges(range(6)) == "encoder.0, encoder.1 and decoder.0–3"
        assert layer_ranges([1, 3, 4]) == "encoder.1, decoder.1 and decoder.2"
    assert layer_ranges(range(6)) == "0–5"


def test_interventions_name_their_layers():
    with model_layer_names(MODEL):
        assert name_intervention("skip:layer=3") == "skip:layer=decoder.1"
        both = name_intervention("zero:z,layer=1,head=3+zero:z,layer=4,head=0")
        assert both == "zero:z,layer=encoder.1,head=3+zero:z,layer=decoder.2,head=0"
        assert name_intervention("skip:layers=1+3") == "skip:layers=encoder.1+decoder.1"
        assert name_intervention("intact") == "intact"
    assert name_intervention("skip:layer=3") == "skip:layer=3"


def test_names_hold_inside_only():
    plain: ModelFacts = MODEL.model_copy(update={"n_encoder_layers": 0})
    with model_layer_names(MODEL):
        assert name_layer(3) == "decoder.1"
        assert name_layer(-1) == "-1"
        with model_layer_names(plain):
            assert name_layer(3) == "3"
        assert name_layer(1) == "encoder.1"
    assert name_layer(3) == "3"
