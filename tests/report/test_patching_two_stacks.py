"""Figures of patches in an encoder-decoder: both stacks, and what is not there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from legible import texts
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import layerwise as lw
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.rows import rows
from layerwise.report import Report, report
from layerwise.results import PatchingResult
from tests.planted import small_task
from tests.planted_seq2seq import small_seq2seq

LAYOUT = WiredSeq2SeqLayout()
N_ENCODER, N_LAYERS = LAYOUT.n_encoder_layers, LAYOUT.n_layers


@cache
def two_stack_patching() -> PatchingResult:
    return lw.patch_activations(
        small_seq2seq(LAYOUT), small_task("retrieval", 6),
        sites=("resid_pre", "z", "cross_z", "cross_v"), pairs=3, progress=False,
    )  # fmt: skip


@pytest.fixture
def result() -> PatchingResult:
    return two_stack_patching()


@pytest.fixture(scope="module")
def page() -> Report:
    return report(two_stack_patching())


def mesh_values(axes: Axes) -> np.ndarray:
    (mesh,) = (found for found in axes.collections if isinstance(found, QuadMesh))
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def ticks(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def stack_names(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels(minor=True)]


def test_a_map_has_the_prompt_in_the_encoder_and_the_answer_in_the_decoder(page, result):
    axes = page.figures["patching_resid_pre"].axes[0]
    columns = [text.get_text() for text in axes.get_xticklabels()]
    assert columns == ["before", "last changed", "last", "answer"]
    wide = rows(result.summary(), site="resid_pre").pivot(
        index="layer", columns="pos_label", values="recovered"
    )
    expected = wide[columns].to_numpy(dtype=float)
    np.testing.assert_allclose(mesh_values(axes), expected)
    missing = np.isnan(expected)
    assert missing[:N_ENCODER].all(0).tolist() == [False, False, False, True]
    assert missing[N_ENCODER:].all(0).tolist() == [True, True, True, False]
    assert stack_names(axes) == ["encoder", "decoder"]


def test_a_panel_of_heads_has_the_prompts_end_and_then_the_answers_position(page, result):
    *panels, _ = page.figures["patching_z"].axes
    named = {axes.get_title(loc="left").split("\n")[1]: axes for axes in panels}
    assert list(named) == ["last changed", "last, then answer", "all positions"]
    found = mesh_values(named["last, then answer"])
    assert found.shape == (N_LAYERS, LAYOUT.encoder_heads)
    summary = rows(result.summary(), site="z")
    for label, layers in (("last", slice(0, N_ENCODER)), ("answer", slice(N_ENCODER, None))):
        wide = rows(summary, pos_label=label).pivot(
            index="layer", columns="head", values="recovered"
        )
        n_heads = wide.shape[1]
        np.testing.assert_allclose(found[layers, :n_heads], wide.to_numpy(dtype=float))
        assert np.isnan(found[layers, n_heads:]).all()
    assert np.isnan(mesh_values(named["last changed"])[N_ENCODER:]).all()


@pytest.mark.parametrize("name", ["patching_cross_z", "patching_cross_v"])
def test_layers_of_the_decoder_alone_are_numbered_in_it_and_it_is_named(page, name):
    axes = page.figures[name].axes[0]
    assert stack_names(axes) == ["decoder"]
    assert ticks(axes)[0] == "0"
    assert all(int(tick) < N_LAYERS - N_ENCODER for tick in ticks(axes))
    assert not [line for line in axes.get_lines() if line.get_gid() == "encoder | decoder"]
    assert len(mesh_values(axes)) == N_LAYERS - N_ENCODER


@pytest.mark.parametrize("layers", [range(8), range(5), range(5, 8)])
@pytest.mark.parametrize("along", ["x", "y"])
def test_a_stack_is_named_where_a_layers_number_stands_in_its_middle(result, layers, along):
    model = result.facts.model.model_copy(update={"n_layers": 8, "n_encoder_layers": 5})
    figure = Figure(figsize=(4, 4))
    axes = figure.subplots()
    (axes.set_xlim if along == "x" else axes.set_ylim)(0, len(layers))
    with model_layer_names(model):
        name_layers(axes, along, layers, 3.0, cells=True)
    written = {text.get_text() for text in texts(figure)}
    expected = {"encoder"} if 0 in layers else set()
    expected |= {"decoder"} if 7 in layers else set()
    assert written & {"encoder", "decoder"} == expected


def test_the_page_says_where_was_patched(page):
    assert "answer: the position where the answer&#39;s first token is predicted" in page.html
    assert "at the prompt&#39;s positions" in page.html
    assert "or at all of the stack" in page.html
    assert f">decoder.{LAYOUT.copy.layer - N_ENCODER}<" in page.html
