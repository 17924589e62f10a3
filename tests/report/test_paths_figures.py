from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.collections import QuadMesh

from layerwise.report import report
from layerwise.results import AttributionPatchingResult, PathPatchingResult
from layerwise.storage.parquet import frame
from tests import synthetic

SITES = {"embedding": "embed", "head": "z", "mlp": "mlp_out"}


def paths(
    n_layers: int = 4, n_heads: int = 3, receivers: tuple[str, ...] = ("logits", "q:3.1"),
    n_pairs: int = 16,
) -> PathPatchingResult:  # fmt: skip
    """Head 2 of layer 1 carries half of the answer to each receiver, MLP 1 a third."""
    rng = np.random.default_rng(0)
    senders = [("embedding", -1, None)] + [
        sender
        for layer in range(n_layers)
        for sender in (
            *((f"head {layer}.{head}", layer, head) for head in range(n_heads)),
            (f"mlp {layer}", layer, None),
        )
    ]
    planted = {"head 1.2": 0.5, "mlp 1": 1 / 3}
    rows = []
    for receiver in receivers:
        for pair in range(n_pairs):
            for sender, layer, head in senders:
                share = planted.get(sender, 0.0) + 0.02 * rng.normal()
                rows.append(
                    {
                        "task": "keys", "capability": "retrieval", "item": f"keys/{pair}",
                        "protocol": "continuation", "direction": "noising",
                        "receiver": receiver, "sender": sender,
                        "site": SITES[sender.split()[0]], "layer": layer, "head": head,
                        "clean_diff": 2.0, "corrupted_diff": -2.0,
                        "patched_diff": 2.0 - 4 * share, "recovered": share,
                    }
                )  # fmt: skip
    facts = synthetic.facts(synthetic.task_facts("keys", "retrieval"), n_layers=n_layers)
    return PathPatchingResult(frame("path_patching", rows), facts)


def estimates(tasks: tuple[str, ...] = ("keys",)) -> AttributionPatchingResult:
    rng = np.random.default_rng(0)
    rows = [
        {
            "task": task, "capability": "retrieval", "item": f"{task}/{pair}",
            "protocol": "continuation", "direction": "denoising", "site": "z", "layer": layer,
            "head": head, "pos": 3, "pos_label": "last", "clean_diff": 2.0,
            "corrupted_diff": -2.0, "estimated_diff": -2 + 0.1 * layer + 0.01 * rng.normal(),
            "estimated": 0.1, "patched_diff": -2 + 0.2 * layer if head else None,
            "recovered": 0.1,
        }
        for task in tasks for pair in range(5) for layer in range(6) for head in range(3)
    ]  # fmt: skip
    named = (synthetic.task_facts(task, "retrieval") for task in tasks)
    facts = synthetic.facts(*named, n_layers=4)
    return AttributionPatchingResult(frame("attribution_patching", rows), facts)


def test_cells_of_paths_are_the_table():
    result = paths()
    effects, figure = result.effects(), result.plot()
    assert [a.get_title(loc="left").split("\n")[1] for a in figure.axes[:2]] == [
        "to logits", "to q:3.1",
    ]  # fmt: skip
    (mesh,) = (c for c in figure.axes[0].collections if isinstance(c, QuadMesh))
    drawn = np.asarray(mesh.get_array()).reshape(4, 4)
    mine = effects.query("receiver == 'logits' and layer >= 0")
    wide = mine.assign(head=mine["head"].fillna(3)).pivot(
        index="layer", columns="head", values="recovered"
    )
    np.testing.assert_allclose(drawn, wide.to_numpy(dtype=float))
    (dots,) = (line for line in figure.axes[0].lines if line.get_gid() == "significant")
    marked = set(zip(dots.get_ydata(), dots.get_xdata(), strict=True))
    assert {(1.5, 2.5), (1.5, 3.5)} <= marked


def test_points_are_the_sampled_cells():
    result = estimates()
    figure = result.plot()
    (points,) = (line for line in figure.axes[0].lines if line.get_gid() == "cells")
    cells = result.cells().dropna(subset=["true"])
    assert len(cells) == 12
    np.testing.assert_allclose(points.get_xdata(), cells["true"])
    np.testing.assert_allclose(points.get_ydata(), cells["estimate"])
    assert set(cells["head"]) == {1, 2}


def test_the_report_shows_both():
    page = report([paths(), estimates()])
    assert list(page.figures) == ["paths_noising", "estimates_denoising"]
    assert "Direct paths</h2>" in page.html
    assert "Estimated patches</h2>" in page.html
    assert "head 1.2" in page.html
    assert isinstance(paths().summary_rows(), pd.DataFrame)


def in_two_stacks(n_encoder: int, n_decoder: int, n_heads: int) -> PathPatchingResult:
    """Head 1 of layer 1 in the encoder, and of cross-attention in the decoder's second layer."""
    rows = []
    for receiver, layers, sites in (
        ("cross_v:decoder.1.0", range(n_encoder), ("z",)),
        ("logits", range(n_encoder, n_encoder + n_decoder), ("z", "cross_z")),
    ):
        spots = [(s, layer, head) for s in sites for layer in layers for head in range(n_heads)]
        for site, layer, head in [*spots, *(("mlp_out", layer, None) for layer in layers)]:
            planted = (site, layer, head) in (("z", 1, 1), ("cross_z", n_encoder + 1, 1))
            share = 0.5 if planted else 0.01
            rows += [
                {
                    "task": "keys", "capability": "retrieval", "item": f"keys/{pair}",
                    "protocol": "continuation", "direction": "noising", "receiver": receiver,
                    "sender": f"{site} {layer} {head}", "site": site, "layer": layer,
                    "head": head, "clean_diff": 2.0, "corrupted_diff": -2.0,
                    "patched_diff": 2.0 - 4 * share, "recovered": share,
                }
                for pair in range(12)
            ]  # fmt: skip
    sizes = {"n_layers": n_encoder + n_decoder, "n_encoder_layers": n_encoder}
    model = synthetic.MODEL.model_copy(update=sizes)
    facts = synthetic.facts(synthetic.task_facts("keys", "retrieval"), model=model)
    return PathPatchingResult(frame("path_patching", rows), facts)


def test_heads_of_cross_attention_have_columns_of_their_own():
    result = in_two_stacks(3, 2, 2)
    figure = result.plot()
    into_logits, into_values = figure.axes[:2]
    named = {text.get_text() for text in into_logits.get_xticklabels()}
    assert {"MLP", "c0", "0"} <= named
    drawn = []
    for axes in (into_logits, into_values):
        (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
        drawn.append(np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(5, 5))
    assert np.argwhere(drawn[0] == 0.5).tolist() == [[4, 3]]
    assert np.argwhere(drawn[1] == 0.5).tolist() == [[1, 1]]
    assert np.isnan(drawn[0][:3]).all()
    assert np.isnan(drawn[1][3:]).all()
    assert np.isnan(drawn[1][:, 2:4]).all()
    assert "heads of cross-attention" in report(result).html
    assert "c0, c1" not in report(paths()).html
