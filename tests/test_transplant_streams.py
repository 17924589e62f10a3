"""Activations of one model in another: planted differences are told from what reaches a layer."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.analyses.transplant.parts import head_parts
from layerwise.errors import UserError
from layerwise.models.instance.kinds import blocks_of
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.presentation.rows import rows
from layerwise.report.html import findings
from tests.analysis import word_task
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task

LAYOUT = WiredLayout(
    n_layers=5, n_heads=2, previous=Spot(0, 1), look_up=Spot(1, 0), facts=Spot(2, 1),
    second_hop=Spot(3, 0), gate=Spot(4, 1),
)  # fmt: skip


def without(layer: int, site: str) -> Any:
    broken = copy.deepcopy(small_model(LAYOUT))
    with torch.no_grad():
        for weight in parts_of_block(broken, blocks_of(broken)[layer])[site]:
            weight.mul_(1e-6)
    return broken


def exchange(model: Any, other: Any, task: Any, *args: Any, **options: Any) -> Any:
    return lw.transplant(model, other, task, *args, progress=False, **options)


def shares(result: Any, what: str, direction: str = "brings") -> list[float]:
    effects = rows(result.effects(), exchange=what, direction=direction)
    return list(effects.sort_values(by="layer")["share"].round(6))


@pytest.mark.parametrize("better", ["other", "base"])
def test_weights_bring_it_at_their_layer_and_streams_from_there_on(better, tmp_path):
    whole, broken = small_model(LAYOUT), without(1, "attn_out")
    pair = (broken, whole) if better == "other" else (whole, broken)
    found = exchange(
        *pair, small_task("retrieval"), layers=[0, 1, 2],
        exchange=["weights", "activations"], out=tmp_path,
    )  # fmt: skip
    for direction in ("brings", "destroys"):
        assert shares(found, "weights", direction) == [0, 1, 0]
        assert shares(found, "activations", direction) == [0, 1, 1]
    told = [one.full for one in findings([found])]
    (stream,) = [text for text in told if "residual stream" in text]
    assert stream.startswith("With the residual stream after layer 1 of")
    assert "The weights of that layer alone bring 79 [" in stream
    assert any("is carried by layer 1." in text for text in told)
    assert found.ranks()["n_layers"].eq(3).all()
    (again,) = lw.load_results(tmp_path)
    pd.testing.assert_frame_equal(found.effects(), again.effects())


def test_a_layer_that_works_on_what_an_earlier_one_found_does_not_bring_it_by_weights():
    """Two links of a chain are missing: the first works in the host, the second on it alone."""
    whole, broken = small_model(LAYOUT), without(0, "attn_out")
    with torch.no_grad():
        for weight in parts_of_block(broken, blocks_of(broken)[1])["attn_out"]:
            weight.mul_(1e-6)
    found = exchange(
        broken, whole, small_task("retrieval"), layers=[0, 1, 2],
        exchange=["weights", "activations"],
    )  # fmt: skip
    assert shares(found, "weights") == [0, 0, 0]
    assert shares(found, "activations") == [0, 1, 1]
    (stream,) = [o.full for o in findings([found]) if "residual stream" in o.full]
    assert "bring 0 [" in stream
    assert "it may be what reaches the layer" in stream


def test_texts_under_activations_are_those_of_the_other_model():
    whole, broken = small_model(LAYOUT), without(2, "mlp_out")
    task = small_task("knowledge")
    found = exchange(
        broken, whole, task, ["continuation", "generate"], site="mlp_out", layers=[1, 2],
        exchange="activations",
    )  # fmt: skip
    assert found.gaps()["found"].all()
    for protocol in ("continuation", "generate"):
        of = rows(found.effects(), protocol=protocol, direction="brings")
        assert list(of["share"].round(6)) == [0, 1]
    (told, _) = [o.full for o in findings([found]) if o.kind == "transplant"]
    assert "is carried by the MLP output of layer 2." in told
    table = found.transplant.query("protocol == 'generate' and layer == 2 and host == 'base'")
    plain = found.transplant.query("protocol == 'generate' and kind == 'intact'")
    texts = plain.loc[plain["host"] == "other"].set_index("item")["generated"]
    assert table.set_index("item")["generated"].equals(texts.loc[table["item"]])


def test_the_output_of_a_head_is_found_and_its_siblings_move_nothing():
    whole = small_model(LAYOUT)
    broken = copy.deepcopy(whole)
    with torch.no_grad():
        for part in head_parts(broken, blocks_of(broken)[1], "z", 0)[-4:]:
            part.of(part.weight).mul_(1e-6)  # its keys and values
    found = exchange(
        broken, whole, small_task("retrieval"), site="z", layers=[1], exchange="activations"
    )
    assert list(found.effects().query("direction == 'brings'")["share"]) == [1, 0]
    (told,) = [o.full for o in findings([found]) if o.kind == "transplant"]
    assert "is carried by the output of head 1.0." in told


def test_activations_of_what_puts_out_none_are_refused():
    model = tiny_model("llama")
    with pytest.raises(UserError, match="Activations were asked for at site 'norms', which has"):
        exchange(model, model, word_task(), site="norms", exchange="activations")
    with pytest.raises(UserError, match="Unknown exchange 'weight'"):
        exchange(model, model, word_task(), exchange="weight")
