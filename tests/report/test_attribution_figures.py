from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from legible import WIDTHS, assert_legible
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D

from layerwise.report import report
from layerwise.report.figures import attribution_heads, attribution_lines
from layerwise.results import AttributionResult
from layerwise.storage.parquet import frame
from tests import synthetic

BEST = (3, 1)


def made_up(
    n_layers: int = 5,
    n_heads: int = 2,
    tasks: tuple[str, ...] = ("facts",),
    n: int = 30,
    right: float = 1.0,
    protocols: tuple[str, ...] = ("continuation",),
) -> AttributionResult:
    """Head 3.1 adds 2 nats, the MLP of layer 2 takes 1; noise is opposite in every other item."""
    rows = []
    for task in tasks:
        for protocol in protocols:
            for item in range(n):
                about = {
                    "task": task, "capability": "knowledge", "item": f"{item:03d}",
                    "protocol": protocol, "metric": "logit_diff", "correct": item < right * n,
                    "chance": 0.25,
                }  # fmt: skip
                rows += [about | part for part in _parts(item, n_layers, n_heads)]
    facts = synthetic.facts(
        *(synthetic.task_facts(task, "knowledge") for task in tasks), n_layers=n_layers
    )
    return AttributionResult(frame("attribution", rows), facts)


def _parts(item, n_layers, n_heads):
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


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("draw", [attribution_lines, attribution_heads])
@pytest.mark.parametrize(
    ("n_layers", "n_heads", "tasks"),
    [
        (4, 2, ("facts",)),
        (30, 9, tuple(f"a task with a long name {i}" for i in "abcde")),
        (80, 64, ("facts",)),
    ],
)
def test_texts_are_readable_and_apart(width, draw, n_layers, n_heads, tasks):
    figure = draw(made_up(n_layers, n_heads, tasks, n=4).summary(), width=width)
    assert figure.get_figwidth() <= width + 1e-9
    assert_legible(figure)


def found(figure, gid: str) -> Line2D:
    (line,) = [line for line in figure.findobj(Line2D) if line.get_gid() == gid]
    return line


def test_lines_are_the_table_and_filled_where_significant():
    summary = made_up().summary()
    figure = attribution_lines(summary)
    for part in ("attn_out", "mlp_out"):
        mine = summary[summary["component"] == part].sort_values("layer")
        np.testing.assert_allclose(found(figure, f"mean {part}").get_ydata(), mine["value"])
    assert list(found(figure, "sure mean attn_out").get_xdata()) == [3]
    assert list(found(figure, "sure mean mlp_out").get_xdata()) == [2]


def test_cells_are_the_table_and_dots_are_significant():
    summary = made_up().summary()
    figure = attribution_heads(summary)
    (mesh, *_) = figure.findobj(QuadMesh)
    heads = summary[summary["component"] == "z"]
    wide = heads.pivot(index="layer", columns="head", values="value").to_numpy(dtype=float)
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(wide.shape), wide)
    assert mesh.get_clim() == pytest.approx((-np.abs(wide).max(), np.abs(wide).max()))
    dots = found(figure, "significant")
    (x, y) = BEST[1] + 0.5, BEST[0] + 0.5
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([x], [y])


def test_the_report_has_a_section_and_a_sentence():
    page = report(made_up(protocols=("letter", "continuation")))
    assert list(page.figures) == [
        "attribution_letter", "attribution_heads_letter",
        "attribution_continuation", "attribution_heads_continuation",
    ]  # fmt: skip
    assert 'id="attribution"' in page.html
    summary = made_up().summary()
    best = summary[(summary["component"] == "attn_out") & (summary["layer"] == 3)].iloc[0]
    head = summary[(summary["component"] == "z") & summary["significant"]].iloc[0]
    (claim,) = report(made_up()).findings
    assert claim.short.startswith(
        "On facts, the attention of layer 3 adds most directly to the answer's first token when it "
        f"chooses: {best['value']:.1f} of "
    )
    assert claim.estimate is not None
    assert claim.estimate[:3] == pytest.approx(tuple(best[["value", "run_low", "run_high"]]))
    assert (claim.evidence, claim.p, claim.layers) == ("established", best["p_run"], (3,))
    assert f"Of all heads, 3.1 adds most: {head['value']:.2f} [" in claim.full


def test_without_signal_nothing_is_drawn_or_said():
    page = report(made_up(right=0.2))
    assert page.figures == {}
    assert page.findings == ()
    assert "No signal, so left out: facts." in page.html


def test_a_result_shows_itself():
    result = made_up()
    assert found(result.plot(), "significant")
    rows = result.summary_rows()
    assert isinstance(rows, pd.DataFrame)
    assert sorted(part.split(" ")[0] for part in rows["part"][:2]) == ["attention", "head"]
