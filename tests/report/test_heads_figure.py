from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D

from layerwise._head_tables import SCORES, summary_table
from layerwise.report.figures import head_score_maps


def summary(n_layers: int, n_heads: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    layer, head = (index.ravel() for index in np.indices((n_layers, n_heads)))
    base = pd.DataFrame({"layer": layer, "head": head})
    scores = rng.random((len(SCORES), len(base))) * 0.3
    scores[0, -1] = 0.9
    tables = [
        base.assign(sequence=i, **dict(zip(SCORES, scores + 0.01 * i, strict=True)))
        for i in range(3)
    ]
    return summary_table(pd.concat(tables), 0.4, 0)


@pytest.mark.parametrize("width", [3.3, 6.9])
@pytest.mark.parametrize(("n_layers", "n_heads"), [(2, 2), (30, 9), (80, 64)])
def test_texts_are_readable_and_apart(width, n_layers, n_heads):
    figure = head_score_maps(summary(n_layers, n_heads), width)
    assert figure.get_figwidth() <= width + 1e-9
    assert_legible(figure)


def test_cells_are_the_table_and_induction_heads_have_a_dot():
    table = summary(4, 3)
    figure = head_score_maps(table)
    maps = [mesh for mesh in figure.findobj(QuadMesh) if mesh.get_array().size == 12]
    for mesh, score in zip(maps, SCORES[:3], strict=True):
        np.testing.assert_allclose(np.ravel(mesh.get_array()), table[score])
    (dots,) = [line for line in figure.findobj(Line2D) if line.get_gid() == "marked"]
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([2.5], [3.5])
