from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layerwise.sweep.plans import memory
from layerwise.sweep.plans.memory import default_memory_budget, free_memory

GIB = 2**30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many bytes free, and within a container or not."""
    monkeypatch.setattr(memory, "_GROUP", tmp_path)

    def with_free(n_bytes: int, **group: object) -> None:
        found = SimpleNamespace(available=n_bytes)
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: found)
        for name, value in group.items():
            (tmp_path / f"memory.{name}").write_text(f"{value}\n")

    return with_free


@pytest.mark.parametrize(
    ("free", "budget"),
    [
        (8 * GIB, 4 * GIB),
        (8 * GIB - 1, 2 * GIB),
        (0, GIB // 4),
        (1000 * GIB, 64 * GIB),
    ],
)
def test_half_of_what_is_free_as_a_power_of_two(machine, free, budget):
    machine(free)
    assert default_memory_budget() == budget


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        (4 * GIB, GIB, 3 * GIB),
        (4 * GIB, 5 * GIB, 0),
        (100 * GIB, GIB, 16 * GIB),
        ("max", GIB, 16 * GIB),
    ],
)
def test_a_container_has_less_than_the_machine(machine, limit, used, free):
    machine(16 * GIB, max=limit, current=used)
    assert free_memory() == free


def test_a_gpu_is_asked_itself_and_keeps_some_for_torch(machine, monkeypatch):
    """Of the machine's own memory nothing is said."""
    machine(GIB)
    asked = []

    def told(value):
        return lambda place: asked.append(place) or value

    monkeypatch.setattr(torch.cuda, "mem_get_info", told((20 * GIB, 80 * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", told(18 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", told(5 * GIB))
    assert free_memory("cuda:1") == 33 * GIB
    assert default_memory_budget("cuda:1") == 16 * GIB
    assert set(asked) == {torch.device("cuda:1")}
