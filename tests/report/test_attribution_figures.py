"""Figures, tables and sentences of attribution, of one stack and of two."""

from __future__ import annotations

from collections.abc import Iterator
from html import unescape

import numpy as np
import pytest
from legible import cells, line

from layerwise.presentation.rows import numbers, rows
from layerwise.report import Report, report
from layerwise.report.figures import attribution_heads, attribution_lines
from layerwise.results import AttributionResult
from layerwise.storage.parquet import frame
from tests import synthetic

BEST = (3, 1)
N_ENCODER, N_LAYERS = 4, 7
N_HEADS = {"encoder": 3, "decoder": 2}
# Of two stacks: the MLP of encoder.2, and the cross-attention of decoder.1 by its head 1; the
# attention of encoder.0 adds less.
FOUND, FETCHED = 2, 5


def _parts(item: int, n_layers: int, n_heads: int) -> Iterator[dict]:
    rng, sign = np.random.default_rng(item // 2), 1 - 2 * (item % 2)
    heads = sign * rng.normal(0, 0.1, (n_layers, n_heads))
    heads[BEST] += 2
    mlps = sign * rng.normal(0, 0.1, n_layers)
    mlps[2] -= 1
    for layer in range(n_layers):
        yield {"component": "attn_out", "layer": layer, "value": heads[layer].sum()}
        yield {"component": "mlp_out", "layer": layer, "value": mlps[layer]}
        for head in range(n_heads):
            value = heads[layer, head]
            yield {"component": "z", "layer": layer, "head": head, "value": value}
    yield {"component": "total", "value": heads.sum() + mlps.sum()}


def _parts_of_two_stacks(item: int) -> Iterator[dict]:
    rng, sign = np.random.default_rng(item // 2), 1 - 2 * (item % 2)

    def noise() -> float:
        return sign * rng.normal(0, 0.1)

    for layer in range(N_LAYERS):
        stack = "decoder" if layer >= N_ENCODER else "encoder"
        yield {"component": "attn_out", "layer": layer, "value": noise() + (layer == 0)}
        yield {"component": "mlp_out", "layer": layer, "value": noise() + 2 * (layer == FOUND)}
        for head in range(N_HEADS[stack]):
            yield {"component": "z", "layer": layer, "head": head, "value": noise()}
            if stack == "decoder":
                value = noise() + 3 * ((layer, head) == (FETCHED, 1))
                yield {"component": "cross_z", "layer": layer, "head": head, "value": value}
        if stack == "decoder":
            value = noise() + 3 * (layer == FETCHED)
            yield {"component": "cross_attn_out", "layer": layer, "value": value}
    yield {"component": "total", "value": 4.0 + noise()}


def made_up_attribution(
    n_layers: int = 5,
    n_heads: int = 2,
    tasks: tuple[str, ...] = ("facts",),
    n: int = 30,
    right: float = 1.0,
    protocols: tuple[str, ...] = ("continuation",),
    two_stacks: bool = False,
) -> AttributionResult:
    """Head 3.1 adds 2 nats, the MLP of layer 2 takes 1; noise is opposite in every other item."""
    table = [
        {
            "task": task, "capability": "knowledge", "item": f"{item:03d}", "protocol": protocol,
            "metric": "logit_diff", "correct": item < right * n, "chance": 0.25,
        } | part
        for task in tasks for protocol in protocols for item in range(n)
        for part in (
            _parts_of_two_stacks(item) if two_stacks else _parts(item, n_layers, n_heads)
        )
    ]  # fmt: skip
    sizes = {"n_layers": n_layers}
    if two_stacks:
        sizes = {"n_layers": N_LAYERS, "n_encoder_layers": N_ENCODER}
    facts = synthetic.facts(
        *(synthetic.task_facts(task, "knowledge") for task in tasks),
        model=synthetic.MODEL.model_copy(update=sizes),
    )
    return AttributionResult(frame("attribution", table), facts)


@pytest.fixture(scope="module")
def result() -> AttributionResult:
    """Of two stacks."""
    return made_up_attribution(two_stacks=True)


@pytest.fixture(scope="module")
def page(result: AttributionResult) -> Report:
    return report(result)


def test_lines_are_the_table_and_filled_where_significant():
    summary = made_up_attribution().summary()
    figure = attribution_lines(summary)
    for part in ("attn_out", "mlp_out"):
        wanted = summary[summary["component"] == part].sort_values("layer")["value"]
        np.testing.assert_allclose(line(figure, f"mean {part}").get_ydata(), wanted)
    assert list(line(figure, "sure mean attn_out").get_xdata()) == [3]
    assert list(line(figure, "sure mean mlp_out").get_xdata()) == [2]


def test_lines_of_two_stacks_are_the_table_with_a_gap_between_the_stacks(page, result):
    figure, summary = page.figures["attribution_continuation"], result.summary()
    for part in ("attn_out", "mlp_out", "cross_attn_out"):
        x, y = (np.asarray(v, float) for v in line(figure, f"mean {part}").get_data())
        wanted = rows(summary, component=part).sort_values("layer")
        there = ~np.isnan(x)
        np.testing.assert_array_equal(x[there], numbers(wanted, "layer"))
        np.testing.assert_allclose(y[there], numbers(wanted, "value"))
        if part == "cross_attn_out":  # in the decoder alone
            assert there.all()
            continue
        (gap,) = np.flatnonzero(~there)
        assert (x[:gap] < N_ENCODER).all()
        assert (x[gap + 1 :] >= N_ENCODER).all()
    assert list(line(figure, "sure mean mlp_out").get_xdata()) == [FOUND]
    assert list(line(figure, "sure mean cross_attn_out").get_xdata()) == [FETCHED]
    assert line(figure, "encoder | decoder").get_xdata()[0] == N_ENCODER - 0.5


def test_cells_are_the_table_and_dots_are_significant():
    summary = made_up_attribution().summary()
    figure = attribution_heads(summary)
    heads = summary[summary["component"] == "z"]
    wide = heads.pivot(index="layer", columns="head", values="value").to_numpy(dtype=float)
    np.testing.assert_allclose(cells(figure.axes[0]), wide)
    dots = line(figure, "significant")
    (x, y) = BEST[1] + 0.5, BEST[0] + 0.5
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([x], [y])


def test_heads_of_both_attentions_have_maps_without_what_is_not_there(page, result):
    own, cross = (
        page.figures[f"attribution_{name}_continuation"] for name in ("heads", "cross_heads")
    )
    missing = np.isnan(cells(own.axes[0]))
    assert missing.shape == (N_LAYERS, N_HEADS["encoder"])
    assert missing[N_ENCODER:, N_HEADS["decoder"] :].all()
    assert missing.sum() == (N_LAYERS - N_ENCODER) * (N_HEADS["encoder"] - N_HEADS["decoder"])
    wide = rows(result.summary(), component="cross_z").pivot(
        index="layer", columns="head", values="value"
    )
    np.testing.assert_allclose(cells(cross.axes[0]), wide.to_numpy(dtype=float))
    dots = line(cross, "significant")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([1.5], [FETCHED - N_ENCODER + 0.5])


def test_the_report_has_a_section_and_a_sentence():
    made = report(made_up_attribution(protocols=("letter", "continuation")))
    assert list(made.figures) == [
        "attribution_letter", "attribution_heads_letter",
        "attribution_continuation", "attribution_heads_continuation",
    ]  # fmt: skip
    summary = made_up_attribution().summary()
    best = summary[(summary["component"] == "attn_out") & (summary["layer"] == 3)].iloc[0]
    (claim,) = report(made_up_attribution()).findings
    assert "the attention of layer 3 adds most directly" in claim.short
    assert claim.estimate is not None
    assert claim.estimate[:3] == pytest.approx(tuple(best[["value", "run_low", "run_high"]]))
    assert (claim.evidence, claim.p, claim.layers) == ("established", best["p_run"], (3,))
    assert "Of all heads, 3.1 adds most: " in claim.full


def test_a_sentence_tells_what_is_written_and_where_it_comes_from(page, result):
    (claim,) = page.findings
    assert "the cross-attention of layer decoder.1 adds most" in claim.short
    heads, encoder = claim.details[1:]
    assert "decoder.1.1 of cross-attention adds most" in heads
    assert "the MLP of layer encoder.2 adds most: 2.0 [" in encoder
    assert "within what cross-attention adds" in unescape(page.html)
    assert set(result.summary_rows()["part"]) >= {
        "cross-attention decoder.1", "cross-attention head decoder.1.1",
    }  # fmt: skip


def test_without_signal_nothing_is_drawn_or_said():
    made = report(made_up_attribution(right=0.2))
    assert made.figures == {}
    assert made.findings == ()
    assert "No signal, so left out: facts." in made.html


def test_rounding_has_no_colour(result):
    table = result.attribution.assign(value=result.attribution["value"] * 1e-9)
    small = AttributionResult(table, result.facts).summary()
    (mesh, *_) = attribution_heads(small).axes[0].collections
    assert mesh.get_clim() == (-1, 1)
