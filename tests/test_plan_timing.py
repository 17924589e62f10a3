"""How long plans say that runs take: from samples of the very sweeps that are planned."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import layerwise as lw
from layerwise.planning import timing
from layerwise.planning.plan import plan_run
from layerwise.planning.timing import PlannedSweep, lengths_in
from layerwise.runs.setup import Setup, prepare
from layerwise.sweep import (
    Generate,
    Generated,
    LogLikelihood,
    Sweep,
    SweepStats,
    intact,
    patch,
    skip,
)
from layerwise.sweep.requests import Outcome
from tests.analysis import prompt_pair, word_task
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model

MODELS = {"decoder": lambda: tiny_model("llama"), "two stacks": lambda: tiny_seq2seq("t5")}
FLOP, STEP, TEXT_FLOP = 1e-8, 1e-2, 4e-8


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Sweeps that take so long as their work does at known speeds."""
    spent, real = [], Setup.sweep

    def swept(setup, interventions, requests, method="engine"):
        found = real(setup, interventions, requests, method)
        lengths = {"words": lengths_in(found, requests)}
        cost = Setup.cost(replace(setup, lengths=lengths), word_task(), interventions, requests)
        seconds = FLOP * cost.prompt_flop + STEP * cost.steps + TEXT_FLOP * cost.text_flop
        spent.append(seconds)
        return replace(found, stats=replace(found.stats, seconds=seconds))

    monkeypatch.setattr(Setup, "sweep", swept)
    return spent


@pytest.mark.parametrize("kind", MODELS)
def test_speeds_are_found_again(kind, clock):
    model = MODELS[kind]()
    plan = plan_run(model, word_task(40), ["letter", "generate"])
    total = plan.total
    assert total.steps > 0
    expected = FLOP * total.prompt_flop + STEP * total.steps + TEXT_FLOP * total.text_flop
    # How an encoder-decoder reads its inputs depends on how long texts may get.
    about = {"rel": 1e-6 if kind == "decoder" else 0.05}
    assert plan.seconds == pytest.approx(expected, **about)
    assert [row.protocol for row in plan.rows if row.seconds] == ["letter", "generate"]
    texts = plan.rows[1]
    assert texts.seconds == pytest.approx(
        FLOP * texts.cost.prompt_flop + STEP * texts.cost.steps + TEXT_FLOP * texts.cost.text_flop,
        **about,
    )


def test_a_sample_takes_about_as_long_as_it_should(clock):
    plan = plan_run(tiny_model("llama"), word_task(400), "letter")
    assert plan.seconds is not None
    assert plan.seconds > 5 * timing.SECONDS
    assert timing.SECONDS / 2 <= sum(clock) <= 3 * timing.SECONDS


def test_long_prompts_are_timed_in_a_few_layers(clock, monkeypatch):
    """A prompt that takes minutes is not run whole to say so."""
    model = tiny_model("llama", num_hidden_layers=12)
    task = word_task(items=tuple(_long_items(2)))
    whole = plan_run(model, task, "continuation", untimed=True).total
    a_prompt = 60 * timing.SECONDS
    speed = a_prompt * 2 * whole.interventions / whole.prompt_flop
    monkeypatch.setattr(f"{__name__}.FLOP", speed)
    plan = plan_run(model, task, "continuation")
    assert plan.seconds == pytest.approx(speed * plan.total.flop)
    assert sum(clock) < a_prompt / 2


def _long_items(n):
    """Questions of 60 tokens and more."""
    for number in range(n):
        question = " ".join(["the red key", "opens"][(number >> i) % 2] for i in range(20))
        yield replace(word_task(1).items[0], id=f"long {number}", question=question)


def test_texts_are_tried_after_few_tokens_of_prompts(monkeypatch):
    task = word_task(8)
    setup = prepare(tiny_model("llama"), task, "generate")

    def n_tried(most):
        monkeypatch.setattr(timing, "MOST_TRIED", most)
        requests = timing.few_texts(setup, setup.tasks[0]).requests
        return len(requests), max(len(request.context) for request in requests)

    whole = max(len(setup.requests(task, item, "generate")[0].request.context)
                for item in task.items[: timing.TRIED])  # fmt: skip
    assert n_tried(1000) == (timing.TRIED, whole)
    assert n_tried(4) == (1, 5)


def test_patches_are_timed_on_patches(clock):
    model = tiny_model("llama")
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    plan = plan_run(model, word_task(items=(pair,)), analysis="patching")
    assert plan.seconds == pytest.approx(FLOP * plan.total.prompt_flop)


@pytest.mark.parametrize("protocol", ["letter", "generate"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_run_takes_about_as_long_as_planned(kind, protocol, monkeypatch):
    """In seconds of the processor, so that other work on the machine is not in them."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr("layerwise.sweep.run.time", clock)
    model, task = MODELS[kind](), word_task(60)
    plan = plan_run(model, task, protocol)
    assert plan.seconds is not None
    (work,) = lw.ablate(model, task, protocol, progress=False).facts.work
    assert plan.seconds / 4 < work["seconds"] < plan.seconds * 4


def test_a_part_is_of_the_first_requests_and_of_spread_changes():
    changes = [intact(), *map(skip, range(9))]
    asked = [LogLikelihood((1, 2, 3 + i), (4,)) for i in range(10)]
    whole = PlannedSweep(word_task(), changes, asked)
    few = whole.part(0.09)
    assert [one.id for one in few.interventions] == [changes[i].id for i in (0, 3, 6)]
    assert few.requests == asked[:3]
    least = whole.part(0.0)
    assert (len(least.interventions), len(least.requests)) == (2, 1)
    assert whole.part(7.0) == whole
    one = PlannedSweep(word_task(), [patch("attn_out", 0, 1)], asked)
    assert len(one.part(0.0).interventions) == 1
    shallow = whole.in_layers(2, 6)
    assert [each.id for each in shallow.interventions] == ["skip:layers=1+2+4+5"]
    assert shallow.requests == asked[:1]
    assert [each.id for each in whole.in_layers(1, 1).interventions] == [intact().id]


def test_lengths_in_a_sweep():
    first: list[Outcome] = [Generated((1, 2, 3, 4), ""), Generated((5, 6), "")]
    changed: list[Outcome] = [Generated((1, 2, 9, 9, 9, 9), ""), Generated((5, 6), "")]
    found = lengths_in(Sweep([first, changed], SweepStats()), [Generate((1,), 8)] * 2)
    assert (found.intact, found.changed, found.agreed) == (6 / 16, 8 / 16, 4 / 8)
