from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from legible import WIDTHS, assert_legible
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.heads.result import SCORES, summary_table
from layerwise.presentation.naming import naming_layers_of
from layerwise.report.figures import head_score_maps
from layerwise.storage.provenance import ModelFacts
from tests.synthetic import facts


def summary(n_layers: int, n_heads: int, n_encoder: int = 0) -> pd.DataFrame:
    """Made-up scores; the last head of the last layer is an induction head.

    The decoder of an encoder-decoder has a head less.
    """
    rng = np.random.default_rng(0)
    layer, head = (index.ravel() for index in np.indices((n_layers, n_heads)))
    base = pd.DataFrame({"site": "z", "layer": layer, "head": head})
    if n_encoder:
        base = base.loc[(base["layer"] < n_encoder) | (base["head"] < n_heads - 1)]
        cross = base.loc[base["layer"] >= n_encoder].assign(site="cross_z")
        base = pd.concat([base, cross], ignore_index=True)
    scores = rng.random((len(SCORES), len(base))) * 0.3
    scores[0, np.flatnonzero(base["site"] == "z")[-1]] = 0.9
    tables = [
        base.assign(sequence=i, **dict(zip(SCORES, scores + 0.01 * i, strict=True)))
        for i in range(3)
    ]
    table, null = pd.concat(tables), np.nan
    table["next_token"] = table["next_token"].where(table["layer"] < n_encoder, null)
    table["previous_token"] = table["previous_token"].where(table["site"] == "z", null)
    return summary_table(table, 0.4, 0)


def two_stacks(n_layers: int, n_encoder: int) -> ModelFacts:
    return facts(n_layers=n_layers).model.model_copy(update={"n_encoder_layers": n_encoder})


def maps_of(figure: Figure, n_cells: int) -> list[QuadMesh]:
    return [mesh for mesh in figure.findobj(QuadMesh) if mesh.get_array().size == n_cells]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("n_layers", "n_heads"), [(2, 2), (30, 9), pytest.param(80, 64, marks=pytest.mark.long)]
)
def test_texts_are_readable_and_apart(width, n_layers, n_heads):
    figure = head_score_maps(summary(n_layers, n_heads), width)
    assert_legible(figure, width)


def test_cells_are_the_table_and_induction_heads_have_a_dot():
    table = summary(4, 3)
    figure = head_score_maps(table)
    shown = ("prefix_matching", "previous_token", "duplicate_token")
    for mesh, score in zip(maps_of(figure, 12), shown, strict=True):
        np.testing.assert_allclose(np.ravel(mesh.get_array()), table[score])
    (dots,) = [line for line in figure.findobj(Line2D) if line.get_gid() == "significant"]
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([2.5], [3.5])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("n_layers", "n_heads", "n_encoder"), [(3, 2, 1), (24, 12, 12)])
def test_texts_of_two_stacks_are_readable_and_apart(width, n_layers, n_heads, n_encoder):
    with naming_layers_of(two_stacks(n_layers, n_encoder)):
        figure = head_score_maps(summary(n_layers, n_heads, n_encoder), width)
        assert_legible(figure, width)


def test_both_kinds_of_attention_have_the_same_axes_and_gaps_where_nothing_is_scored():
    table = summary(5, 3, 2)
    with naming_layers_of(two_stacks(5, 2)):
        figure = head_score_maps(table)
    maps = maps_of(figure, 15)
    shown = [("z", score) for score in SCORES[:4]]
    shown += [("cross_z", "prefix_matching"), ("cross_z", "duplicate_token")]
    for mesh, (site, score) in zip(maps, shown, strict=True):
        cells = table.loc[table["site"] == site].set_index(["layer", "head"])[score]
        drawn = np.ma.filled(np.ma.masked_invalid(mesh.get_array()).astype(float), np.nan)
        for (layer, head), value in np.ndenumerate(np.reshape(drawn, (5, 3))):
            assert value == pytest.approx(cells.get((layer, head), np.nan), nan_ok=True)
    (dots,) = [line for line in figure.findobj(Line2D) if line.get_gid() == "significant"]
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([1.5], [4.5])
