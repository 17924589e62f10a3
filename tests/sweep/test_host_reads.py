"""The device is never waited for by the layer: the same code is meant for GPUs.

The machine that tests need not have one, so that reads are counted as the code asks for them,
and a walk is run on the device ``meta``, on which there are no numbers to be read.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.fx.experimental._config as of_meta

from layerwise.sweep import (
    Generate,
    LogLikelihood,
    intact,
    mean,
    patch,
    skip,
    skip_layers,
    sweep,
    zero,
)
from layerwise.sweep.decoding import decode
from layerwise.sweep.packed import modules as _modules
from layerwise.sweep.requests import make_stopper
from layerwise.sweep.walk.engine import SweepWork
from layerwise.sweep.walk.engine_run import engine_outcomes, make_walk
from tests.models.seq2seq.tiny import tiny_seq2seq

from .host_reads import HostReads
from .models import D_MODEL, N_LAYERS, random_model
from .strategies import combine_edits

LAYERS = range(N_LAYERS)
REQUESTS = [
    LogLikelihood((1, 2, 3), (4, 5), (1, 9, 3)),
    LogLikelihood((1, 2, 7), (4, 5), (1, 3, 3)),
]
WHOLE = [
    intact(),
    *(skip(layer) for layer in LAYERS),
    *(skip_layers((0, layer)) for layer in LAYERS[1:]),
    *(zero("resid_pre", layer) for layer in LAYERS),
    *(mean("resid_post", layer, torch.ones(D_MODEL)) for layer in LAYERS),
    *(combine_edits([skip(0), zero("attn_out", layer)]) for layer in LAYERS[1:]),
    *(combine_edits([skip(0), zero("mlp_out", layer)]) for layer in LAYERS[1:]),
    *(patch("resid_pre", layer, pos) for layer in LAYERS for pos in (-1, 1)),
]


def test_reads_are_seen():
    x, at = torch.arange(3.0), torch.tensor([True, False, True])
    with HostReads() as found:
        _ = x[at], x.sum().item(), x.tolist(), bool(x[0]), float(x[1]), x.cpu(), torch.where(at)
        x[at] = 0
        _ = x[torch.tensor([0])], torch.where(at, x, x), x + 1  # none of these
    assert found.places.total() == 8


def any_model(kind: str) -> Any:
    return tiny_seq2seq(kind) if kind in ("t5", "bart") else random_model(kind)


@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "gpt2", "soft-caps", "t5", "bart"])
def test_a_walk_reads_nothing(kind):
    walk = make_walk(any_model(kind), WHOLE, REQUESTS, SweepWork())
    with torch.inference_mode(), HostReads() as found:
        walk.run()
    # The last layer's layout, made once a walk on the host: read there, not from the device.
    assert [place for place in found.places if not place.startswith("layout.py")] == []


@pytest.mark.parametrize("n_texts", [1, 12])
def test_a_decoding_step_reads_its_tokens_and_nothing_by_the_layer(n_texts):
    model, steps, found = random_model("llama-gqa"), [], HostReads()
    step, run = decode.Decoder._step, decode.Decoder.run

    def counted(decoder):
        steps.append(len(decoder.rows))
        step(decoder)

    def watched(decoder):
        with found:
            run(decoder)

    texts = [Generate((1, 2, 3 + i), 6) for i in range(n_texts)]
    changes = [intact(), *(skip(layer) for layer in LAYERS), zero("attn_out", 2)]
    with (
        mock.patch.object(decode.Decoder, "_step", counted),
        mock.patch.object(decode.Decoder, "run", watched),
    ):
        sweep(model, changes, texts)
    assert steps
    # The greedy tokens, and for these which rows are ties and where.
    assert found.places.total() <= 3 * len(steps)
    assert {place.split(":")[0] for place in found.places} <= {"decode.py", "readout.py"}


def model_changes(model: Any) -> list[Any]:
    layers = range(model.cfg.n_layers)
    return [
        intact(),
        *(skip(layer) for layer in layers),
        *(zero("attn_out", layer) for layer in layers[1:]),
        *(mean("resid_post", layer, torch.ones(model.cfg.d_model)) for layer in layers),
    ]


@contextlib.contextmanager
def read_meta_as_zeros() -> Iterator[None]:
    """Read what is on ``meta`` as zeros."""
    tolist, cpu = torch.Tensor.tolist, torch.Tensor.cpu

    def on_host(one: torch.Tensor) -> torch.Tensor:
        return torch.zeros(one.shape, dtype=one.dtype) if one.is_meta else cpu(one)

    def listed(one: torch.Tensor) -> Any:
        kind = float if one.is_floating_point() else int
        return np.zeros(one.shape, kind).tolist() if one.is_meta else tolist(one)

    with (
        mock.patch.object(torch.Tensor, "tolist", listed),
        mock.patch.object(torch.Tensor, "cpu", on_host),
        mock.patch.object(_modules, "_if_any", lambda bias: bias),
        mock.patch.object(of_meta, "meta_nonzero_assume_all_nonzero", True),
    ):
        yield


@pytest.mark.long(but=["bart", "gpt2"])
@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "gpt2", "t5", "bart"])
def test_all_of_a_sweep_is_on_the_models_device(kind):
    """A tensor that was made on another device would be refused by the first operation on both."""
    model = copy.deepcopy(any_model(kind)).to("meta")
    patches = [patch(site, 1, -1) for site in ("resid_pre", "attn_out")] + [patch("z", 1, -1, 0)]
    scored = [*model_changes(model), *patches]
    texts = [Generate((1, 2, 3), 4), Generate((1, 2, 7), 4)]
    for changes, asked in ((scored, REQUESTS), (model_changes(model), texts)):
        with read_meta_as_zeros(), torch.inference_mode():
            outcomes, *_ = engine_outcomes(model, changes, asked, make_stopper(None, ()))
        assert len(outcomes) == len(changes)
