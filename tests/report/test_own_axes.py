"""Figures of results in axes of the user's own: the same marks, names of axes, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic as pages
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from layerwise.errors import UserError
from layerwise.results import AblationResult, EmergenceResult
from tests import synthetic
from tests.report.test_attribution_figures import made_up_attribution
from tests.report.test_interactions_shown import planted_interactions
from tests.report.test_removal_figure import removal


def lens_result():
    return synthetic.lens(np.linspace(-9, -1, 9) + np.zeros((5, 9)), "keys", "retrieval")


def patching():
    return synthetic.patching_result(np.linspace(0, 1, 8) + np.zeros((5, 8)), "keys", "retrieval")


def role_map() -> AblationResult:
    """An ablation of one task."""
    result = synthetic.small_ablation()
    records = result.records
    one = records.loc[records["task"] == records["task"].iloc[0]]
    return AblationResult(one, result.facts)


RESULTS = {
    "role map": role_map, "patching": patching, "interactions": planted_interactions,
    "attribution": made_up_attribution, "removal": lambda: removal(5),
}  # fmt: skip


def marks(axes: Axes) -> tuple[list, list]:
    """Numbers that are drawn: of lines, and of coloured cells."""
    meshes = [mesh.get_array() for mesh in axes.findobj(QuadMesh)]
    cells = [np.ma.filled(one.astype(float), -99.0).tolist() for one in meshes if one is not None]
    return [line.get_xydata().tolist() for line in axes.get_lines()], cells


@pytest.mark.long(but=["role map", "patching"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_figure_of_one_panel_is_drawn_into_ones_own_axes(name):
    result = RESULTS[name]()
    alone = result.plot()
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.plot([1, 2])
    before = len(figure.axes)
    assert result.plot(ax=left) is left
    (expected,) = [axes for axes in alone.axes if not hasattr(axes, "_colorbar_info")]
    assert marks(left) == marks(expected)
    assert any(marks(left))
    assert left.get_xlabel() == expected.get_xlabel()
    assert left.get_ylabel() == expected.get_ylabel()
    assert left.get_title(loc="left") == expected.get_title(loc="left")
    assert left.get_xlim() == expected.get_xlim()
    assert marks(right)[0] == [[[0, 1], [1, 2]]]
    bars = [axes for axes in figure.axes if hasattr(axes, "_colorbar_info")]
    assert len(figure.axes) == before + len(bars)
    assert len(bars) == sum(hasattr(axes, "_colorbar_info") for axes in alone.axes)
    figure.draw_without_rendering()
    again = result.plot()  # a figure by itself again
    assert again is not figure
    assert marks(again.axes[0]) == marks(expected)


def test_a_legend_is_the_same_within_the_axes():
    result = made_up_attribution()
    axes = Figure().subplots()
    result.plot(ax=axes)
    (named,) = result.plot().legends
    assert axes.get_legend() is not None
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == [text.get_text() for text in named.get_texts()]


def test_a_figure_of_several_panels_is_refused_and_leaves_the_axes_empty():
    plan = pages.Plan()
    ablation, *others = pages.results(plan)
    axes = Figure().subplots()
    with pytest.raises(UserError, match=r"This figure has \d+ panels \(.*\): expected a figure of"):
        ablation.plot(ax=axes)
    with pytest.raises(UserError, match="This figure has 4 panels: expected"):
        lens_result().plot(ax=axes)  # one for each measure
    emergence = next(one for one in others if isinstance(one, EmergenceResult))
    with pytest.raises(UserError, match=r"This figure has \d+ panels"):
        emergence.plot(ax=axes)
    assert marks(axes) == ([], [])
    assert ablation.plot().axes


def test_what_is_no_axes_is_refused():
    for wrong in (Figure(), 3, "left", np.array([Figure().subplots()])):
        with pytest.raises(UserError, match=r"Argument 'ax' is of type .*; expected axes of"):
            lens_result().plot(ax=wrong)
