"""A decoder and an encoder-decoder with the same mechanisms wired into known layers, compared."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerwise as lw
from layerwise.models.organisms.layout import WiredLayout
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import PlantedSeq2Seq
from tests.comparing import row
from tests.planted import Planted, small_model, small_task
from tests.planted_seq2seq import small_seq2seq

PLAIN, BOTH = WiredLayout(), WiredSeq2SeqLayout()
ASKED = {"protocols": ["generate"], "progress": False}


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> lw.Comparison:
    folder: Path = tmp_path_factory.mktemp("wired")
    tasks = [small_task(name) for name in ("retrieval", "reasoning")]
    lw.ablate(small_model(PLAIN), tasks, **ASKED).save(folder / "decoder")
    lw.ablate(small_seq2seq(BOTH), tasks, **ASKED).save(folder / "seq2seq")
    return lw.compare([folder / "decoder", folder / "seq2seq"])


@pytest.mark.parametrize("capability", ["retrieval", "reasoning"])
def test_each_run_has_the_layers_that_were_wired(compared: lw.Comparison, capability: str):
    truth = {"decoder": Planted(PLAIN, capability), "seq2seq": PlantedSeq2Seq(BOTH, capability)}
    for name, planted in truth.items():
        asked = compared.layers["run"].eq(name) & compared.layers["capability"].eq(capability)
        needed = compared.layers.loc[asked & compared.layers["significant"], "layer"]
        assert set(needed) == planted.critical("layer")


def test_depths_and_their_difference_are_those_of_the_wiring(compared: lw.Comparison):
    """Layers of one chain cost the same, so half of the effect is in the middle one."""
    mine = {"capability": "retrieval", "measure": "half-effect depth"}
    found = row(compared.differences, axis="computation", **mine)
    middle = PLAIN.look_up.layer, BOTH.begin.layer
    first, second = (middle[0] + 0.5) / PLAIN.n_layers, (middle[1] + 0.5) / 14
    assert found["estimate_first"] == pytest.approx(first)
    assert found["estimate_second"] == pytest.approx(second)
    assert found["difference"] == pytest.approx(second - first)
    assert found["significant"]
    inside = row(compared.differences, axis="decoder", **mine)
    assert inside["estimate_second"] == pytest.approx((BOTH.copy.layer - 8 + 0.5) / 6)
    assert inside["estimate_first"] == pytest.approx(first)


def test_sizes_of_critical_sets_are_those_of_the_wiring(compared: lw.Comparison):
    told = compared.estimates.query("family == 'critical set' and axis == 'computation'")
    sizes = told.query("capability == 'retrieval'").set_index("run")["estimate"]
    assert sizes.to_dict() == {"decoder": 3 / 10, "seq2seq": 5 / 14}
    assert "critical set" not in set(compared.differences["family"])


def test_intact_models_that_both_know_everything_do_not_differ(compared: lw.Comparison):
    mine = compared.differences.query("family == 'accuracy'")
    assert mine["difference"].eq(0).all()
    assert not mine["significant"].any()
