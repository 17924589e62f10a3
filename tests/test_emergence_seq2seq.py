"""Depths within each stack of an encoder-decoder, on made-up records whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layerwise.analyses.emergence.api import CENTRE, CRITICAL, HALF, emergence
from layerwise.report import report
from layerwise.results import AblationResult, EmergenceResult
from tests import synthetic
from tests.synthetic import cell_records, planted

pytestmark = pytest.mark.drawn

N_ENCODER, N_LAYERS = 5, 8


def ablated(**critical: tuple[int, ...]) -> AblationResult:
    """A task for each capability, with the layers that it needs."""
    rng = np.random.default_rng(0)
    cells = [
        cell_records(planted(rng, 60, N_LAYERS, critical=layers), f"of {capability}", capability)
        for capability, layers in critical.items()
    ]
    sizes = {"n_layers": N_LAYERS, "n_encoder_layers": N_ENCODER}
    return synthetic.ablation(*cells, model=synthetic.MODEL.model_copy(update=sizes))


def depths(found: EmergenceResult, axis: str, capability: str) -> pd.DataFrame:
    table = found.emergence
    mine = table.loc[(table["axis"] == axis) & (table["capability"] == capability)]
    return mine.set_index("measure")


def test_each_stack_is_told_by_its_own_layers():
    found = emergence([ablated(retrieval=(1, 3, 6), knowledge=(0, 5))], n_resamples=200)
    for capability, axis, layers, relative in (
        ("retrieval", "encoder", [1, 3], None),
        ("retrieval", "decoder", [6], 1 / 2),
        ("knowledge", "encoder", [0], 0.0),
        ("knowledge", "decoder", [5], 0.0),
    ):
        mine = depths(found, axis, capability)
        assert mine.loc[CRITICAL, "layers"] == layers
        n_layers = N_ENCODER if axis == "encoder" else N_LAYERS - N_ENCODER
        assert mine.loc[CRITICAL, "estimate"] == pytest.approx(len(layers) / n_layers)
        assert mine.loc[CENTRE, "layer"] == pytest.approx(np.mean(layers), abs=0.05)
        if relative is not None:
            assert mine.loc[[HALF, CENTRE], "estimate"].tolist() == pytest.approx([relative] * 2)
            assert mine.loc[HALF, "layer"] == pytest.approx(layers[0])
            # the layers of a stack are never left, so at an end one bound is the estimate
            assert mine.loc[HALF, "layer_low"] <= layers[0] <= mine.loc[HALF, "layer_high"]
            assert mine.loc[HALF, "layer_high"] - mine.loc[HALF, "layer_low"] < 0.2
    assert depths(found, "computation", "retrieval").loc[CRITICAL, "layers"] == [1, 3, 6]
    assert found.left_out.empty


def test_a_stack_that_is_not_needed_has_no_depth_and_it_is_said_so():
    found = emergence([ablated(retrieval=(1, 3))], n_resamples=200)
    assert set(depths(found, "encoder", "retrieval").index) == {CRITICAL, HALF, CENTRE}
    mine = depths(found, "decoder", "retrieval")
    assert set(mine.index) == {CRITICAL}
    assert (mine.loc[CRITICAL, "layers"], mine.loc[CRITICAL, "layer"]) == ([], 0)
    (row,) = found.left_out.to_dict("records")
    assert (row["axis"], row["capability"]) == ("decoder", "retrieval")
    assert "no single layer does significant harm" in row["reason"]


def test_what_is_left_out_of_the_whole_is_not_told_again_of_each_stack():
    found = emergence([ablated(retrieval=())], n_resamples=200)
    assert found.left_out["axis"].tolist() == ["computation"]


def test_tests_of_order_are_on_the_axis_of_computation_alone():
    found = emergence([ablated(retrieval=(1, 6), knowledge=(3, 5))], n_resamples=200)
    assert found.order["measure"].tolist() == [HALF]


def test_the_report_and_the_terminal_tell_both():
    result = ablated(retrieval=(1, 3, 6), knowledge=(0, 5))
    found = emergence([result], n_resamples=200)
    assert "axis" in found.summary_rows()
    page = report([result, found])
    assert {"emergence", "emergence_within_stacks"} <= set(page.figures)
    titles = [axes.get_title(loc="left") for axes in page.figures["emergence_within_stacks"].axes]
    assert titles[0] == "encoder, ablation, letter: half-effect depth"
    assert all(title.startswith(("encoder, ", "decoder, ")) for title in titles)
    places = {
        gid: {
            axes.get_title(loc="left"): sorted(
                float(x) for line in axes.lines if line.get_gid() == gid for x in line.get_xdata()
            )
            for axes in page.figures["emergence_within_stacks"].axes
        }
        for gid in ("estimate", "critical")
    }
    name = "decoder, ablation, letter: half-effect depth"
    assert places["critical"][name] == places["estimate"][name] == [0.0, 0.5]
    alone = emergence([synthetic.small_ablation()], n_resamples=50)
    assert set(alone.emergence["axis"]) == {"computation"}
    assert "axis" not in alone.summary_rows()
    assert "emergence_within_stacks" not in report([alone]).figures
