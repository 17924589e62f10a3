"""One thread at a time for each model: the second waits until the first has finished.

Hooks, weights that come from disk, tables of rotations and a tokenizer's state are kept on the
model, so that two threads on one model would mix them up. Different models run side by side.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_MAKING = threading.Lock()


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock of a model, of which a thread that holds it may ask again.

    It is not kept on the model, so that copies of the model have locks of their own.
    """
    with _MAKING:
        return _LOCKS.setdefault(model, threading.RLock())


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function hold the lock of its model as long as it runs.

    Args:
        function: its first argument is the model, given by position or as ``model``.
    """

    @functools.wraps(function)
    def waiting(*args: P.args, **named: P.kwargs) -> R:
        model = args[0] if args else named.get("model")
        if not isinstance(model, nn.Module):  # the function says what is wrong with it
            return function(*args, **named)
        with lock_of(model):
            return function(*args, **named)

    return waiting
