from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from legible import WIDTHS, assert_legible, texts
from matplotlib.collections import QuadMesh

from layerwise.analyses.patching.figures import patching_heads
from layerwise.report import report
from layerwise.results import PatchingResult
from layerwise.storage.parquet import frame
from tests import synthetic

LABELS = ("last changed", "last", "all")


def heads(
    n_layers: int = 6, n_heads: int = 4, tasks: tuple[str, ...] = ("keys",),
    direction: str = "denoising", n_pairs: int = 8,
) -> PatchingResult:  # fmt: skip
    """Head 2 of layer 3 carries half of the answer to the last position."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "task": task, "capability": "retrieval", "item": f"{task}/{pair}",
            "protocol": "continuation", "direction": direction, "site": "z", "layer": layer,
            "head": head, "pos": 5, "source_pos": 5, "pos_label": label, "clean_diff": 2.0,
            "corrupted_diff": -2.0, "patched_diff": 0.0,
            "recovered": 0.0,
        }
        for task in tasks for pair in range(n_pairs) for layer in range(n_layers)
        for head in range(n_heads) for label in LABELS
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    planted = (table["layer"] == 3) & (table["head"] == 2) & (table["pos_label"] != "last changed")
    share = 0.5 * planted + rng.normal(0, 0.02, len(table))
    start = 2.0 if direction == "noising" else -2.0
    table = table.assign(recovered=share, patched_diff=start * (1 - 2 * share))
    facts = synthetic.facts(
        *(synthetic.task_facts(task, "retrieval") for task in tasks), n_layers=n_layers
    )
    return PatchingResult(frame("patching", table.to_dict("records")), facts)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("n_layers", "n_heads", "tasks"),
    [
        (1, 1, ("keys",)),
        (30, 9, ("keys", "a task with a long name indeed")),
        pytest.param(48, 40, ("keys",), marks=pytest.mark.long),
    ],
)
def test_texts_are_readable_and_apart(width, n_layers, n_heads, tasks):
    figure = patching_heads(heads(n_layers, n_heads, tasks, n_pairs=2).summary(), width=width)
    assert_legible(figure, width)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_cells_are_the_summary_and_dots_what_is_significant(direction):
    summary = heads(direction=direction, n_pairs=16).summary()
    figure = patching_heads(summary)
    meshes = {axes.get_title(loc="left").split("\n")[1]: axes for axes in figure.axes[:-1]}
    assert list(meshes) == ["last changed", "last position", "from change to end"]
    axes = meshes["last position"]
    (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
    drawn = np.asarray(mesh.get_array()).reshape(6, 4)
    expected = summary.query("pos_label == 'last'").pivot(
        index="layer", columns="head", values="recovered"
    )
    np.testing.assert_allclose(drawn, expected.to_numpy(dtype=float))
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.6, 0.6)
    (dots,) = (line for line in axes.lines if line.get_gid() == "significant")
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([2.5], [3.5])
    said = "\n".join(text.get_text() for text in texts(figure))
    assert ("lost" if direction == "noising" else "recovered") in said


def test_the_report_shows_heads_in_both_directions():
    there, back = heads(), heads(direction="noising")
    both = PatchingResult(pd.concat([there.patching, back.patching]), there.facts)
    page = report(both)
    assert list(page.figures) == ["patching_z", "patching_z_noising"]
    assert "the corrupted run&#39;s activation is put into the clean run" in page.html
    assert "sign-flip test" in page.html
