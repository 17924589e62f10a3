"""One thread at a time for each model, in torch's own state: what every use of a model begins with.

Hooks, weights that come from disk, tables of rotations and a tokenizer's state are kept on the
model, so that two threads on one model would mix them up. Different models run side by side.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_MAKING = threading.Lock()


def model_lock(model: nn.Module) -> threading.RLock:
    """The re-entrant lock of a model.

    It is not kept on the model, so that copies of the model have locks of their own.
    """
    with _MAKING:
        return _LOCKS.setdefault(model, threading.RLock())


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to hold its model's lock and torch's default state while it runs.

    Within ``torch.inference_mode`` there are no gradients, and with another default device indices
    would be made there; neither is meant for what runs inside.
    """

    @functools.wraps(function)
    def waiting(*args: P.args, **named: P.kwargs) -> R:
        model = args[0] if args else named.get("model")
        if not isinstance(model, nn.Module):  # the function says what is wrong with it
            return function(*args, **named)
        with model_lock(model), own_state():
            return function(*args, **named)

    return waiting


@contextlib.contextmanager
def several_exclusive(*models: nn.Module) -> Iterator[None]:
    """Hold the locks of several models, in torch's own state.

    They are taken in an order that is the same whoever asks, so that no two threads wait for each
    other.
    """
    locks = sorted({id(lock): lock for lock in map(model_lock, models)}.items())
    with contextlib.ExitStack() as entered:
        for _, lock in locks:
            entered.enter_context(lock)
        entered.enter_context(own_state())
        yield


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Leave inference mode and the default device within the context; also a decorator."""
    with contextlib.ExitStack() as undone:
        if torch.is_inference_mode_enabled():
            undone.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            undone.enter_context(torch.device("cpu"))
        yield
