"""Threads: one at a time for each model, different models side by side."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import layerwise as lw
from layerwise import sweep as sweeping
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.models import load_model
from layerwise.models.instance.exclusive import model_lock
from layerwise.planning.plan import plan_run
from layerwise.sweep import Generate, LogLikelihood, intact, patch, skip, sweep, zero
from tests.analysis import word_task
from tests.models.tiny import tiny_folder
from tests.sweep.models import new_model, random_model

ASKED = [
    LogLikelihood((1, 2, 3, 4), (5, 6), source=(4, 3, 2, 1)),
    Generate((1, 2, 3), 4, (), (3, 2, 1)),
]
CHANGES = [
    [intact(), skip(0), zero("z", 1, 2)],
    [patch("resid_pre", 2, -1), skip(3), zero("mlp_out", 0)],
]


@pytest.fixture
def often():
    """Threads take turns more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def run_at_once(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run functions that begin at one moment, each in a thread of its own."""
    ready = threading.Barrier(len(jobs))

    def begin(job: Callable[[], Any]) -> Any:
        ready.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(begin, jobs))


def users_of_models() -> dict[str, Callable[..., Any]]:
    """Every public function whose first argument is a model, and those of sweeps."""
    named = {name: getattr(lw, name) for name in lw.__all__}
    functions = {
        name: getattr(f, name, f) if inspect.ismodule(f) else f for name, f in named.items()
    }
    functions |= {name: getattr(sweeping, name) for name in ("sweep", *_INTACT)}
    functions |= {
        "plan_run": plan_run,
        "train_lens": train_lens,
        "model_facts": lw.models.model_facts,
    }
    return {
        name: function
        for name, function in functions.items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters), "") == "model"
    }


_INTACT = ("mean_activations", "position_means", "residuals_at", "site_noise", "last_residuals")


def test_every_function_that_takes_a_model_waits_for_its_turn(tmp_path):
    needed: dict[str, Any] = {
        **{name: {"prompt": [5, 6, 7]} for name in ("lens_grid", "skip_grid")},
        "attention_grid": {"prompt": [5, 6, 7], "layer": 0},
        "attribute": {"prompt": [5, 6, 7], "answer": 7, "wrong": 8},
        "patch_grid": {"clean": [5, 6], "corrupted": [5, 7], "answer": 7, "wrong": 8},
        "patch": {"clean": [5, 6], "corrupted": [5, 7], "metric": max},
        "intervene": {"prompts": [5, 6], "interventions": [intact()], "outcome": max},
        "removal_order": {"tasks": word_task(), "n_removed": 1},
        "prune_model": {"remove": [0], "out": tmp_path / "out"},
        "transplant": {"other": new_model("gpt2"), "tasks": word_task()},
        "distill": {"student": new_model("gpt2"), "tasks": word_task(), "out": tmp_path / "new"},
    }
    model, functions = new_model("gpt2"), users_of_models()
    assert len(functions) >= 18
    told: list[str] = []

    def use(name: str) -> None:
        try:
            functions[name](model, **needed.get(name, {}))
        except Exception as error:  # arguments are missing
            told.append(f"{name}: {type(error).__name__}")

    threads = [threading.Thread(target=use, args=(name,)) for name in functions]
    with model_lock(model):
        for thread in threads:
            thread.start()
        threads[0].join(0.1)
        assert all(thread.is_alive() for thread in threads), told
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("method", ["engine", "reference"])
def test_two_threads_on_one_model_get_what_each_gets_alone(method):
    model = random_model("soft-caps")
    alone = [sweep(model, changes, ASKED, method=method).outcomes for changes in CHANGES]
    jobs = [
        lambda changes=changes: sweep(model, changes, ASKED, method=method).outcomes
        for changes in CHANGES
    ]
    assert run_at_once(jobs) == alone


def test_different_models_do_not_wait_for_each_other():
    held, other = new_model("gpt2"), random_model("llama-gqa")
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(sweep(other, [intact()], ASKED[:1])))
    with model_lock(held):
        thread.start()
        thread.join(60)
        assert done


@pytest.mark.hooked_transformer
def test_models_loaded_and_used_at_once_are_those_of_one_after_the_other(tmp_path, cache):
    """Also that nothing of the process stays changed, and off-loading touches no other thread."""
    folders = [tiny_folder(tmp_path, family) for family in ("gpt2", "llama")]

    def outcome(number: int, offload: str | None = None) -> Any:
        model = load_model(folders[number], offload=offload)
        return sweep(model, [skip(1)], ASKED).outcomes

    alone = [outcome(0), outcome(1)]
    before = (list(warnings.filters), logging.getLogger("transformers").level)
    jobs = [
        lambda: outcome(0),
        lambda: outcome(1, "disk"),
        lambda: [new_model("neox").blocks[0].attn.W_Q.is_meta for _ in range(3)],
    ]
    assert run_at_once(jobs) == [*alone, [False] * 3]
    assert (list(warnings.filters), logging.getLogger("transformers").level) == before


def test_a_function_that_is_told_of_progress_may_use_the_model_itself():
    model = random_model("gpt2")
    seen: list[Any] = []
    sweep(
        model,
        [intact(), skip(1)],
        ASKED,
        progress=lambda share: seen.append(sweep(model, [skip(2)], ASKED[:1]).outcomes),
    )
    assert seen
    assert all(outcomes == seen[0] for outcomes in seen)
