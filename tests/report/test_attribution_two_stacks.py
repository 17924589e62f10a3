"""Figures, tables and sentences of attribution in an encoder-decoder: both stacks, and between."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape

import numpy as np
import pytest
from legible import WIDTHS, assert_legible
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D

from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.rows import numbers, rows
from layerwise.report import Report, report
from layerwise.report.figures import attribution_heads, attribution_lines
from layerwise.results import AttributionResult
from layerwise.storage.parquet import frame
from tests import synthetic

N_ENCODER, N_LAYERS = 4, 7
HEADS = {False: 3, True: 2}
# The MLP of encoder.2, and the cross-attention of decoder.1 by its head 1; the attention of
# encoder.0 adds less.
FOUND, FETCHED = 2, 5


def _parts(item: int) -> Iterator[dict]:
    rng, sign = np.random.default_rng(item // 2), 1 - 2 * (item % 2)

    def noise() -> float:
        return sign * rng.normal(0, 0.1)

    for layer in range(N_LAYERS):
        decoding = layer >= N_ENCODER
        yield {"component": "attn_out", "layer": layer, "value": noise() + (layer == 0)}
        yield {"component": "mlp_out", "layer": layer, "value": noise() + 2 * (layer == FOUND)}
        for head in range(HEADS[decoding]):
            yield {"component": "z", "layer": layer, "head": head, "value": noise()}
            if decoding:
                value = noise() + 3 * ((layer, head) == (FETCHED, 1))
                yield {"component": "cross_z", "layer": layer, "head": head, "value": value}
        if decoding:
            value = noise() + 3 * (layer == FETCHED)
            yield {"component": "cross_attn_out", "layer": layer, "value": value}
    yield {"component": "total", "value": 4.0 + noise()}


def made_up(tasks: tuple[str, ...] = ("facts",), n: int = 30) -> AttributionResult:
    found = [
        {
            "task": task, "capability": "knowledge", "item": f"{item:03d}",
            "protocol": "continuation", "metric": "logit_diff", "correct": True, "chance": 0.25,
        } | part
        for task in tasks
        for item in range(n)
        for part in _parts(item)
    ]  # fmt: skip
    sizes = {"n_layers": N_LAYERS, "n_encoder_layers": N_ENCODER}
    facts = synthetic.facts(
        *(synthetic.task_facts(task, "knowledge") for task in tasks),
        model=synthetic.MODEL.model_copy(update=sizes),
    )
    return AttributionResult(frame("attribution", found), facts)


RESULT = made_up()


@pytest.fixture(scope="module")
def page() -> Report:
    return report(RESULT)


def line(figure, gid: str) -> Line2D:
    (found,) = [found for found in figure.findobj(Line2D) if found.get_gid() == gid]
    return found


def test_lines_are_the_table_with_a_gap_between_the_stacks(page):
    figure, summary = page.figures["attribution_continuation"], RESULT.summary()
    for part in ("attn_out", "mlp_out", "cross_attn_out"):
        x, y = (np.asarray(v, float) for v in line(figure, f"mean {part}").get_data())
        mine = rows(summary, component=part).sort_values("layer")
        there = ~np.isnan(x)
        np.testing.assert_array_equal(x[there], numbers(mine, "layer"))
        np.testing.assert_allclose(y[there], numbers(mine, "value"))
        if part == "cross_attn_out":  # in the decoder alone
            assert there.all()
            continue
        (gap,) = np.flatnonzero(~there)
        assert (x[:gap] < N_ENCODER).all()
        assert (x[gap + 1 :] >= N_ENCODER).all()
    assert list(line(figure, "sure mean mlp_out").get_xdata()) == [FOUND]
    assert list(line(figure, "sure mean cross_attn_out").get_xdata()) == [FETCHED]
    assert line(figure, "encoder | decoder").get_xdata()[0] == N_ENCODER - 0.5
    assert "through cross-attention" in figure.get_suptitle()


def test_heads_of_both_attentions_have_maps_without_what_is_not_there(page):
    own, cross = (page.figures[f"attribution_{name}_continuation"] for name in
                  ("heads", "cross_heads"))  # fmt: skip
    (mesh,) = own.axes[0].findobj(QuadMesh)
    cells = np.ma.filled(mesh.get_array().astype(float), np.nan)
    assert cells.shape == (N_LAYERS, HEADS[False])
    missing = np.isnan(cells)
    assert missing[N_ENCODER:, HEADS[True] :].all()
    assert missing.sum() == (N_LAYERS - N_ENCODER) * (HEADS[False] - HEADS[True])
    (mesh,) = cross.axes[0].findobj(QuadMesh)
    wide = rows(RESULT.summary(), component="cross_z").pivot(
        index="layer", columns="head", values="value"
    )
    found = np.asarray(mesh.get_array()).reshape(wide.shape)
    np.testing.assert_allclose(found, wide.to_numpy(dtype=float))
    dots = line(cross, "significant")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([1.5], [FETCHED - N_ENCODER + 0.5])
    assert "through" not in cross.get_suptitle()


def test_a_sentence_tells_what_is_written_and_where_it_comes_from(page):
    (claim,) = page.findings
    assert claim.short.startswith("On facts, the cross-attention of layer decoder.1 adds most")
    assert claim.protocols == ("continuation",)
    heads, encoder = claim.details[1:]
    assert "Of all heads of the decoder, decoder.1.1 of cross-attention adds most" in heads
    assert "Of the encoder, through cross-attention, the MLP of layer encoder.2 adds" in encoder
    assert "adds most: 2.0 [" in encoder
    assert "What the encoder's parts add is within what cross-attention adds." in unescape(
        page.html
    )
    assert "cross-attention head decoder.1.1" in page.html
    shown = set(RESULT.summary_rows()["part"])
    assert shown >= {"cross-attention decoder.1", "cross-attention head decoder.1.1"}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("component", ["lines", "z", "cross_z"])
def test_texts_are_readable_and_apart(width, component):
    result = made_up(tuple(f"a task with a long name {i}" for i in "abcde"), n=4)
    with naming_layers_of(result.facts.model):
        summary = result.summary()
        figure = (
            attribution_lines(summary, width=width)
            if component == "lines"
            else attribution_heads(summary, width=width, component=component)
        )
    assert figure.get_figwidth() <= width + 1e-9
    assert_legible(figure)


def test_rounding_has_no_colour():
    table = RESULT.attribution.assign(value=RESULT.attribution["value"] * 1e-9)
    small = AttributionResult(table, RESULT.facts).summary()
    (mesh,) = attribution_heads(small).axes[0].findobj(QuadMesh)
    assert mesh.get_clim() == (-1, 1)
