"""The device is never waited for by the layer: the same code is meant for GPUs.

The machine that tests need not have one, so that reads are counted as the code asks for them,
and a walk is run on the device ``meta``, on which there are no numbers to be read.
"""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch

from layerwise.sweep import (
    Generate,
    LogLikelihood,
    _modules,
    decode,
    intact,
    mean,
    patch,
    skip,
    skip_layers,
    sweep,
    zero,
)
from layerwise.sweep.blocks import block_runners
from layerwise.sweep.engine import Walk, Work
from layerwise.sweep.walk_plan import plan_walk

from .host_reads import HostReads
from .models import D_MODEL, N_HEADS, N_LAYERS, random_model
from .strategies import together

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
    *(together([skip(0), zero("attn_out", layer)]) for layer in LAYERS[1:]),
    *(together([skip(0), zero("mlp_out", layer)]) for layer in LAYERS[1:]),
    *(patch("resid_pre", layer, pos) for layer in LAYERS for pos in (-1, 1)),
]


def walk_of(model, interventions, requests) -> Walk:
    plan = plan_walk(interventions, requests, N_LAYERS)
    return Walk(model, block_runners(model), plan, requests, Work())


def reads(walk: Walk) -> HostReads:
    with torch.inference_mode(), HostReads() as found:
        walk.run()
    return found


def test_reads_are_seen():
    x, at = torch.arange(3.0), torch.tensor([True, False, True])
    with HostReads() as found:
        _ = x[at], x.sum().item(), x.tolist(), bool(x[0]), float(x[1]), x.cpu(), torch.where(at)
        x[at] = 0
        _ = x[torch.tensor([0])], torch.where(at, x, x), x + 1  # none of these
    assert found.places.total() == 8


@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "gpt2", "soft-caps"])
def test_a_walk_reads_nothing(kind):
    found = reads(walk_of(random_model(kind), WHOLE, REQUESTS))
    # The last layer's layout, made once a walk on the host: read there, not from the device.
    assert [place for place in found.places if not place.startswith("layout.py")] == []


@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "gpt2"])
def test_branches_that_begin_inside_a_block_add_none_each(kind):
    """Where heads and what they feed have changed may be asked once a layer, for all branches."""

    def inside(heads):
        return [
            change
            for layer in LAYERS
            for head in heads
            for change in (patch("z", layer, -1, head), patch("attn_out", layer, -1))
        ]

    model = random_model(kind)
    few, many = (
        reads(walk_of(model, inside(range(n)), REQUESTS)).places.total() for n in (1, N_HEADS)
    )
    assert many == few <= 4 * N_LAYERS


@pytest.mark.parametrize("kind", ["llama-gqa", "neox", "gpt2"])
def test_a_walk_runs_without_any_numbers(kind):
    model = copy.deepcopy(random_model(kind)).to("meta")
    # Whether a bias is zero is asked once, when a model's runners are made.
    with mock.patch.object(_modules, "_if_any", lambda bias: bias), torch.inference_mode():
        walk = walk_of(model, WHOLE, REQUESTS)
        walk.run()
    assert walk.trunk.device.type == "meta"
    assert all(group.read.device.type == "meta" for group in walk.groups)


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
