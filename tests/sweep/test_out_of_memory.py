"""A device without room for a batch: it is halved, and the outcomes are the same."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerwise.errors import UserError
from layerwise.sweep import Generate, Generated, LogLikelihood, Scored, intact, skip, sweep
from layerwise.sweep.run import plan_for_model
from layerwise.sweep.walk.engine_run import Engine
from tests.cases import in_long_runs
from tests.models.seq2seq.tiny import tiny_seq2seq

from .models import N_LAYERS, random_model

SCORED = [LogLikelihood((i, *range(1, 12)), (5, 6 + i)) for i in range(20)]
TEXTS = [Generate((i, *range(1, 12)), 3) for i in range(20)]
CHANGES = [intact(), *(skip(layer) for layer in range(N_LAYERS))]


class Device(TorchDispatchMode):
    """A device on which no tensor may be larger than ``most`` bytes.

    It counts how often there was no room, and keeps the bytes of the largest that was made.
    """

    def __init__(self, most: int = 2**40) -> None:
        super().__init__()
        self.most, self.largest, self.refused = most, 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        there = {_memory(one) for one in tensors((args, kwargs))}
        sizes = [one.nbytes for one in tensors(made) if _memory(one) not in there]
        self.largest = max(self.largest, *sizes, 0)
        if self.largest > self.most:
            self.largest, self.refused = 0, self.refused + 1
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate more than there is."
            )
        return made


def tensors(given: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(given) if isinstance(one, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def sweep_on_device(
    model: Any, requests: Any, device: Device, changes: Any = CHANGES, **more: Any
) -> Any:
    """The outcomes of a sweep whose batches are on a device."""
    run = Engine._has_room

    def on_device(*given: Any) -> bool:
        with device:
            return run(*given)

    with mock.patch.object(Engine, "_has_room", on_device):
        return sweep(model, changes, requests, **more).outcomes


def device_with_share(share: float, model: Any, requests: Any) -> Device:
    """A device with room for one request, and for a share of what all need beyond that."""
    alone, together = Device(), Device()
    for one in range(len(CHANGES)):
        sweep_on_device(model, requests[:1], alone, CHANGES[one : one + 1])
    sweep_on_device(model, requests, together)
    assert together.largest > 2 * alone.largest
    return Device(round(alone.largest + share * (together.largest - alone.largest)))


def values(outcomes: Any) -> torch.Tensor:
    return torch.tensor(
        [[one.token_logprobs for one in of] for of in outcomes], dtype=torch.float64
    )


@pytest.mark.long(but=["gpt2-0.7"])
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("llama-gqa", 0.0),
        ("gpt2", 0.7),
        ("t5", 0.7),
        *in_long_runs(("llama-gqa", 0.7), ("gpt2", 0.0), ("t5", 0.0)),
    ],
)
def test_halved_batches_have_the_same_outcomes(kind: str, share: float) -> None:
    model = tiny_seq2seq(kind) if kind == "t5" else random_model(kind)
    plain, small = sweep_on_device(model, SCORED, Device()), device_with_share(share, model, SCORED)
    told: list[float] = []
    found = sweep_on_device(model, SCORED, small, progress=told.append)
    assert small.refused
    assert all(isinstance(one, Scored) for of in found for one in of)
    torch.testing.assert_close(values(found), values(plain), rtol=0, atol=1e-4)
    assert told[-1] == pytest.approx(1)
    assert max(told) <= 1


@pytest.mark.long(but=["t5"])
@pytest.mark.parametrize("kind", ["llama-gqa", "t5"])
def test_texts_are_the_same_too(kind: str) -> None:
    model = tiny_seq2seq(kind) if kind == "t5" else random_model(kind)
    plain, small = sweep_on_device(model, TEXTS, Device()), device_with_share(0.3, model, TEXTS)
    found = sweep_on_device(model, TEXTS, small)
    assert small.refused
    assert all(isinstance(one, Generated) for of in found for one in of)
    assert [[one.tokens for one in of] for of in found] == [
        [one.tokens for one in of] for of in plain
    ]


def test_batches_that_wait_are_halved_before_they_fail() -> None:
    """Several of one size: the first one finds out."""
    model, whole = random_model("gpt2"), Device()
    budget = {"memory_budget": 2**19}
    n_walks = len(plan_for_model(model, CHANGES, SCORED, **budget).batches)
    plain = sweep_on_device(model, SCORED, whole, **budget)
    small = Device(whole.largest - 1)
    found = sweep_on_device(model, SCORED, small, **budget)
    torch.testing.assert_close(values(found), values(plain), rtol=0, atol=1e-4)
    assert small.refused == 1 < n_walks < len(SCORED)


def test_one_request_without_room_is_told_in_a_sentence() -> None:
    with pytest.raises(
        UserError, match=r"ran out of memory with request 0 under intervention"
    ) as told:
        sweep_on_device(random_model("llama-gqa"), SCORED, Device(64))
    assert str(told.value).count(". ") == 0
    assert "expected room for one request beside the weights" in str(told.value)


def test_other_errors_are_not_taken_for_it() -> None:
    class Broken(Device):
        def __torch_dispatch__(self, *given: Any, **named: Any) -> Any:
            raise RuntimeError("an error of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        sweep_on_device(random_model("llama-gqa"), SCORED, Broken())
