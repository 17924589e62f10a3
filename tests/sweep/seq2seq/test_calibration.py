"""How fast two stacks are: every family can be measured, and outlines on a stand-in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layerwise.models.meta_model import load_meta_model
from layerwise.sweep import calibration
from layerwise.sweep._curves import FEWEST
from layerwise.sweep.calibration import calibration_for, fewer_threads
from layerwise.sweep.seq2seq.bench import TwoStackBench
from layerwise.sweep.seq2seq.calibration import TwoStackCalibration, calibrate_two_stacks
from layerwise.sweep.seq2seq.stand_in import stand_in_of_two_stacks
from tests.models.seq2seq.tiny import tiny_folder, tiny_seq2seq
from tests.sweep.test_calibration import counted

KNOWN = TwoStackCalibration(
    tokens_at_once=512,
    encoder=((8, 0.1), (512, 0.15)),
    decoder=((8, 0.2), (512, 0.25)),
    memory=((8, 0.01), (512, 0.02)),
    step=((1, 0.01), (16, 0.02)),
    unembedding=((1, 0.001), (256, 0.1)),
    pair_seconds=1e-8,
    flop_per_second=1e11,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch) -> list[object]:
    return counted(monkeypatch, "calibrate_two_stacks", KNOWN)


@pytest.mark.parametrize("family", ["t5", "flan-t5", "bart", "mbart", "marian", "pegasus"])
def test_every_family_can_be_measured(family):
    found = calibrate_two_stacks(tiny_seq2seq(family), seconds=10.0)  # takes a part of a second
    assert found.tokens_at_once >= FEWEST
    assert found.encoder[0][0] == found.decoder[0][0] == found.memory[0][0] == 8
    assert len(found.step) > 1


def test_a_slow_model_is_measured_at_two_sizes_only():
    found = calibrate_two_stacks(tiny_seq2seq("t5"), seconds=0.0)
    curves = (found.encoder, found.decoder, found.memory, found.step, found.unembedding)
    assert [len(curve) for curve in curves] == [2] * 5


def test_attention_and_the_rest_make_up_what_was_measured(monkeypatch):
    """With a clock by which each token and pair takes its own time, these are found again."""
    token, pair = 1e-3, 1e-6
    model = tiny_seq2seq("t5")
    bench = TwoStackBench(model, 10.0)
    monkeypatch.setattr(model.cfg, "n_ctx", 4096)
    monkeypatch.setattr(
        bench, "encoder", lambda n, length=64: token * n + pair * n * min(n, length)
    )
    assert bench.pair() == pytest.approx(pair)
    assert bench.encoder_curve(pair)[-1] == pytest.approx((4096, 4096 * token))


def test_what_was_measured_is_kept_and_used_again(measured, cache, monkeypatch):
    model = tiny_seq2seq("t5")
    first = calibration_for(model)
    assert isinstance(first, TwoStackCalibration)
    (file,) = (cache / "calibrations").glob("*.json")
    kept = json.loads(file.read_text())["record"]
    assert kept["encoder"] == [list(point) for point in first.encoder]
    monkeypatch.setattr(calibration, "_HELD", {})  # as in another process
    assert calibration_for(model) == first
    calibration_for(tiny_seq2seq("bart"))
    assert len(measured) == 2


@pytest.mark.parametrize("family", ["t5", "flan-t5", "mt5", "bart", "mbart", "marian", "pegasus"])
def test_an_outline_is_measured_on_a_stand_in_as_the_model_would_be(measured, family):
    outline = load_meta_model(str(tiny_folder(family)))
    calibration_for(outline, "cpu")
    (timed,) = measured
    assert timed is not outline
    expected = dict(outline.original.named_parameters())
    for name, parameter in timed.original.named_parameters():
        assert (parameter.shape, parameter.dtype) == (expected[name].shape, expected[name].dtype)
        assert not parameter.is_meta
    assert calibrate_two_stacks(timed, seconds=0.1).step


def test_a_stand_in_has_no_more_blocks_than_are_needed(monkeypatch):
    outline = load_meta_model(str(tiny_folder("t5")))
    monkeypatch.setattr("layerwise.sweep.stand_in.LARGER_THAN_CACHES", 1)
    timed = stand_in_of_two_stacks(outline, "cpu")
    assert (timed.cfg.n_encoder_layers, timed.cfg.n_decoder_layers) == (1, 1)
    monkeypatch.setattr("layerwise.sweep.stand_in.LARGER_THAN_CACHES", 10**9)
    timed = stand_in_of_two_stacks(outline, "cpu")
    assert (timed.cfg.n_encoder_layers, timed.cfg.n_decoder_layers) == (3, 2)


def test_where_not_even_a_few_blocks_fit_nothing_is_measured(measured, monkeypatch):
    outline = load_meta_model(str(tiny_folder("t5")))
    monkeypatch.setattr("layerwise.sweep.seq2seq.stand_in.free_memory", lambda device: 1000)
    assert calibration_for(outline, "cpu") is None
    assert measured == []


def test_what_is_no_calibration():
    with pytest.raises(ValueError, match="positive seconds that grow"):
        replace(KNOWN, memory=((4, 0.1), (2, 0.2)))


def test_fewer_threads_are_told_of(monkeypatch):
    used = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    spent = {2: 2.0, 1: 1.0}
    monkeypatch.setattr(TwoStackBench, "encoder", lambda self, n, repeats: spent[used[-1]])
    assert fewer_threads(tiny_seq2seq("t5")).times == 2.0
