"""The sizes by which the engine cuts its work up, made small, so that tiny sweeps are cut, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from layerwise.sweep.decoding import decode
from layerwise.sweep.walk import engine_run


@dataclass(frozen=True)
class Sizes:
    """Sizes that are patched into the engine.

    Attributes:
        budget: bytes for activations, keys and values; the least makes several walks.
        tokens_at_once: tokens pushed through a block at once, without the engine's own floor.
        rows_at_once: rows that are read out at once.
        beginning: shortest beginning that is attended to apart.
        room: new tokens in one decoding step.
        capacity: rows of the decoding batch.
    """

    budget: int = 10_000_000
    tokens_at_once: int = 2048
    rows_at_once: int = 4096
    beginning: int = 32
    room: int = 16
    capacity: int = 8

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The engine with these sizes."""
        patches: list[Any] = [
            mock.patch.object(
                engine_run.Engine, "_tokens_at_once", return_value=self.tokens_at_once
            ),
            mock.patch.object(engine_run, "row_capacity", return_value=self.capacity),
            mock.patch.object(engine_run, "ROWS_AT_ONCE", self.rows_at_once),
            mock.patch.object(decode, "SHORTEST_BEGINNING", self.beginning),
            mock.patch.object(decode, "STEP_ROOM", self.room),
        ]
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            yield


sizes = st.builds(
    Sizes,
    budget=st.sampled_from([20_000, 100_000, 10_000_000, 10_000_000]),
    tokens_at_once=st.sampled_from([1, 7, 64, 2048]),
    rows_at_once=st.sampled_from([1, 16, 4096]),
    beginning=st.sampled_from([1, 3, 32]),
    room=st.sampled_from([1, 4, 16, 64]),
    capacity=st.sampled_from([1, 2, 3, 4, 16]),
)
