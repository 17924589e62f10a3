from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.models import load_model
from layerwise.models.cache import checksum_of
from layerwise.models.meta_model import load_meta_model
from layerwise.sweep import calibration
from layerwise.sweep._bench import FAIR_TOKENS, TOKENS, Bench
from layerwise.sweep._curves import FEWEST, growing, seconds_at, worthwhile
from layerwise.sweep.calibration import (
    Calibration,
    FewerThreads,
    calibrate,
    calibration_for,
    fewer_threads,
)
from layerwise.sweep.stand_in import stand_in
from tests.models.tiny import tiny_folder
from tests.sweep.models import random_model

KNOWN = Calibration(
    tokens_at_once=512,
    block=((256, 0.1), (512, 0.15), (1024, 0.3)),
    step=((1, 0.01), (16, 0.02)),
    unembedding=((1, 0.001), (256, 0.1)),
    pair_seconds=1e-8,
    key_seconds=0.0,
    step_pair_seconds=1e-8,
    flop_per_second=1e11,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counted(monkeypatch, measuring: str, known: Any) -> list[object]:
    """Each measuring by that function of ``calibration``, which takes no time here."""
    calls: list[object] = []

    def quick(model, seconds=0.0):
        calls.append(model)
        return replace(known, tokens_at_once=256 * len(calls))

    monkeypatch.setattr(calibration, measuring, quick)
    return calls


@pytest.fixture
def measured(monkeypatch) -> list[object]:
    return counted(monkeypatch, "calibrate", KNOWN)


@pytest.mark.parametrize("kind", ["llama-gqa", "attention only", "alibi"])
def test_every_kind_of_block_can_be_measured(kind):
    found = calibrate(random_model(kind), seconds=10.0)  # takes a fifth of a second
    assert found.tokens_at_once >= FEWEST
    assert found.block[0][0] == 8
    assert len(found.step) > 1


def test_without_time_two_points_of_each_curve_are_measured_all_the_same():
    found = calibrate(random_model("llama-gqa"), seconds=0.0)
    sizes = [[size for size, _ in curve] for curve in (found.block, found.step, found.unembedding)]
    assert sizes == [[8, 256], [1, 16], [1, 16]]
    assert found.tokens_at_once == FEWEST


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.5, 100.0])
def test_however_little_time_there_is_large_sizes_are_told_about_right(monkeypatch, seconds):
    """A block that reads its weights for a second, whatever the number of tokens.

    From eight tokens alone, 4,096 would seem to take ten times as long as they do.
    """
    now = [0.0]
    monkeypatch.setattr("layerwise.sweep._bench.time.perf_counter", lambda: now[0])

    def takes(n_tokens: int) -> float:
        return max(1.0, 0.01 * n_tokens)

    def run(n_tokens: int) -> float:
        now[0] += takes(n_tokens)
        return takes(n_tokens)

    curve = Bench(random_model("llama-gqa"), seconds).curve(TOKENS, run, FAIR_TOKENS)
    assert len(curve) >= 2
    assert seconds_at(curve, 4096) == pytest.approx(takes(4096))


def test_a_first_run_that_is_slow_does_not_count_without_time(monkeypatch):
    """A larger size never takes less than a smaller one, so one slow run would raise them all."""
    times, now = iter([0.04, 0.001]), [0.0]
    monkeypatch.setattr("layerwise.sweep._bench.time.perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += next(times)

    assert Bench(random_model("llama-gqa"), 0.0).median(run) == pytest.approx(0.001)


def test_attention_and_the_rest_make_up_what_was_measured(monkeypatch):
    """With a clock by which each token, pair and key takes its own time, these are found again."""
    token, pair, key = 1e-3, 1e-6, 1e-5
    monkeypatch.setattr(
        Bench, "push", lambda self, p: token * p.n_tokens + pair * p.pairs + key * p.keys
    )
    model = random_model("llama-gqa")
    bench = Bench(model, 10.0)
    by_pair, by_key = bench.attention()
    # Sequences of at most 64 tokens are all that this model takes, so pairs cannot be told apart.
    assert by_pair == 0.0
    monkeypatch.setattr(model.cfg, "n_ctx", 4096)
    by_pair, by_key = bench.attention()
    base = bench.apart(1024)
    per_token = token + (pair * base.pairs + key * base.keys) / base.n_tokens
    assert by_pair == pytest.approx(pair, rel=0.1)
    assert by_key == pytest.approx(key, rel=0.1)
    assert bench.block(pair, key)[-1] == pytest.approx((4096, 4096 * token))
    assert per_token > token


def test_curves_grow_whatever_was_measured():
    assert growing([(1, 2.0), (2, 1.0), (4, 3.0)]) == ((1, 2.0), (2, 2.0), (4, 3.0))


def test_seconds_between_and_beyond_what_was_measured():
    curve = ((10, 1.0), (20, 2.0), (40, 3.0))
    assert [seconds_at(curve, size) for size in (1, 10, 15, 30, 40, 80)] == [1, 1, 1.5, 2.5, 3, 6]


def test_of_sizes_as_fast_per_token_the_smallest_is_chosen():
    assert worthwhile(((8, 0.1), (256, 2.56), (512, 5.1), (1024, 10.2))) == 256
    assert worthwhile(((8, 0.01), (256, 2.9), (512, 5.2), (1024, 10.2))) == 512
    assert worthwhile(((8, 0.1),)) == 256


def test_what_was_measured_is_kept_and_used_again(measured, cache, monkeypatch):
    model = random_model("llama-gqa")
    first = calibration_for(model)
    assert calibration_for(model) == first
    (file,) = (cache / "calibrations").glob("*.json")
    assert json.loads(file.read_text())["record"]["tokens_at_once"] == first.tokens_at_once
    monkeypatch.setattr(calibration, "_HELD", {})  # as in another process
    assert calibration_for(model) == first
    assert len(measured) == 1
    assert calibration_for(model, anew=True).tokens_at_once == 512
    monkeypatch.setattr(calibration, "_HELD", {})
    assert calibration_for(model).tokens_at_once == 512
    assert len(measured) == 2


def edited(text: str, changes: dict[str, Any]) -> str:
    """A record with other contents, and their checksum."""
    record = json.loads(text)["record"] | changes
    return json.dumps({"record": record, "sha256": checksum_of(record)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: edited(text, {"block": []}),
        lambda text: edited(text, {"pair_seconds": "fast"}),
        lambda text: edited(text, {"flop_per_second": -1}),
        lambda text: text.replace("0.15", "NaN"),
    ],
)
def test_a_damaged_record_is_measured_anew(measured, cache, monkeypatch, damage):
    model = random_model("llama-gqa")
    calibration_for(model)
    (file,) = (cache / "calibrations").glob("*.json")
    whole = file.read_text()
    file.write_text(damage(whole))
    monkeypatch.setattr(calibration, "_HELD", {})
    assert calibration_for(model).tokens_at_once == 512
    assert len(measured) == 2
    assert json.loads(file.read_text())["record"].keys() == asdict(KNOWN).keys()


def test_a_cache_that_cannot_be_written_costs_one_measurement(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "file"))
    model = random_model("llama-gqa")
    assert calibration_for(model) == calibration_for(model)
    assert len(measured) == 1


def test_other_shapes_and_threads_are_measured_apart(measured):
    before = torch.get_num_threads()
    calibration_for(random_model("llama-gqa"))
    calibration_for(random_model("gpt2"))
    try:
        torch.set_num_threads(before + 1)
        calibration_for(random_model("llama-gqa"))
    finally:
        torch.set_num_threads(before)
    assert len(measured) == 3


def test_an_outline_is_measured_on_a_stand_in_as_the_model_would_be(measured, tmp_path):
    outline = load_meta_model(tiny_folder(tmp_path, "llama"))
    calibration_for(outline, "cpu")
    (timed,) = measured
    assert timed is not outline
    weights = dict(outline.named_parameters())
    for name, parameter in timed.named_parameters():
        assert (parameter.shape, parameter.dtype) == (weights[name].shape, weights[name].dtype)
        assert not parameter.is_meta


def test_a_model_whose_weights_are_on_disk_is_measured_on_a_stand_in(measured, tmp_path):
    on_disk = load_model(tiny_folder(tmp_path, "llama"), offload="disk")
    calibration_for(on_disk)
    (timed,) = measured
    assert timed is not on_disk
    assert not any(parameter.is_meta for parameter in timed.parameters())


def test_where_not_even_a_few_blocks_fit_nothing_is_measured(measured, tmp_path, monkeypatch):
    outline = load_meta_model(tiny_folder(tmp_path, "llama"))
    monkeypatch.setattr("layerwise.sweep.stand_in.free_memory", lambda device: 1000)
    assert stand_in(outline, "cpu") is None
    assert calibration_for(outline, "cpu") is None
    assert measured == []


def test_a_stand_in_can_be_measured(tmp_path):
    timed = stand_in(load_meta_model(tiny_folder(tmp_path, "gpt_neo")), "cpu")
    assert timed is not None
    assert calibrate(timed, seconds=0.1).block


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_at_once": 0},
        {"block": ()},
        {"block": ((8, 0.1),)},
        {"step": ((4, 0.1), (2, 0.2))},
        {"unembedding": ((1, 0.2), (2, 0.1))},
        {"pair_seconds": math.inf},
        {"flop_per_second": 0.0},
    ],
)
def test_what_is_no_calibration(change):
    with pytest.raises(ValueError, match="positive seconds that grow"):
        replace(KNOWN, **change)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ({4: 2.0, 2: 1.5, 1: 1.0}, FewerThreads(4, 1, 2.0)),
        ({4: 1.0, 2: 0.95, 1: 3.0}, None),
        ({4: 1.0, 2: 1.5, 1: 3.0}, None),
    ],
)
def test_fewer_threads_are_told_of_and_not_set(monkeypatch, seconds, told):
    used = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(Bench, "push", lambda self, packed, repeats: seconds[used[-1]])
    assert fewer_threads(random_model("llama-gqa")) == told
    assert used[-1] == 4


def test_one_thread_cannot_be_fewer(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert fewer_threads(random_model("llama-gqa")) is None
