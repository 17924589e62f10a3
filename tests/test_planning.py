"""Plans, against what the analyses then do; and what planning asks of a machine."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import layerwise as lw
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.patching.api import Patching
from layerwise.analyses.removal.job import Removal
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.models.meta_model import load_meta_model
from layerwise.planning import plan as planning
from layerwise.planning import timing
from layerwise.planning.plan import plan_run
from layerwise.planning.timing import text_lengths
from layerwise.runs import dry_sweeps
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.progress import LineMeter, seconds_in_words
from layerwise.runs.records import work_line
from layerwise.runs.setup import Setup, prepare
from layerwise.sweep import (
    Generate,
    Generated,
    Sweep,
    SweepStats,
)
from layerwise.sweep.requests import Outcome
from layerwise.tasks import Task, load_task, with_other_questions
from tests.analysis import prompt_pair, with_preferred_answers, word_task, write_jsonl
from tests.cases import in_long_runs
from tests.commands import assert_command_refused, model_folder, run_cleanly
from tests.models.seq2seq.tiny import tiny_folder as two_stacks
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.test_gguf import write_gguf
from tests.models.tiny import tiny_folder, tiny_model
from tests.planted import small_model, small_task
from tests.transplanting import LAYOUT, silence_parts


def n_blind(task: Task) -> int:
    """Number of items that are asked under other items' questions."""
    return sum(len(others) for others in with_other_questions(task, task.items).values())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def working_folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "good.jsonl", word_task(6, "good").items)
    return tmp_path


def n_token_passes(result) -> int:
    return sum(entry["token_passes"] for entry in result.facts.work)


@pytest.mark.long(but=["options0"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "mean", "layers": [0, 2]},
        {"kind": "noise", "draws": 2, "layers": [1]},
        {"kind": "resample", "draws": 2},
    ],
)
def test_an_ablation_does_what_was_planned(options):
    """Of a task of two pieces."""
    model, task = tiny_model("llama"), word_task(34)
    plan = plan_run(model, task, ["letter", "continuation"], **options)
    result = lw.ablate(model, task, ["letter", "continuation"], progress=False, **options)
    assert plan.total.token_passes == n_token_passes(result)
    (work,) = result.facts.work
    assert work["planned_token_passes"] == work["token_passes"]
    assert work["brute_force_token_passes"] == plan.total.brute_force_token_passes
    assert [(row.task, row.protocol) for row in plan.rows] == [
        ("words", "letter"),
        ("words", "continuation"),
    ]
    assert sum(row.cost.token_passes for row in plan.rows) >= plan.total.token_passes


@pytest.mark.long
def test_texts_cost_between_what_is_planned_for_prompts_and_the_most():
    model, task = tiny_model("llama"), word_task(10)
    plan = plan_run(model, task, "generate")
    result = lw.ablate(model, task, "generate", progress=False)
    cost = plan.total
    assert cost.prompt_token_passes < n_token_passes(result)
    assert n_token_passes(result) <= cost.prompt_token_passes + cost.most_text_token_passes
    assert any("at most" in note for note in plan.notes)


def test_patching_does_what_was_planned():
    model = tiny_model("llama")
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    task = word_task(items=(pair,))
    plan = plan_run(model, task, analysis="patching")
    result = lw.patch_activations(model, task, progress=False)
    assert plan.total.token_passes == n_token_passes(result)
    assert [row.analysis for row in plan.rows] == ["patching"]


@pytest.mark.long
def test_a_lens_and_a_profile_are_planned_by_their_own_pieces():
    model = tiny_model("llama")
    task = with_preferred_answers(model, word_task(15))
    lens = plan_run(model, task, "continuation", analysis="lens")
    assert [row.analysis for row in lens.rows] == ["lens"]
    readings = lw.logit_lens(model, task, "continuation", progress=False).lens
    asked = {item.question for item in task.items if item.id in set(readings["item"])}
    twice = lens.total.requests - len(asked)  # of equal prompts the end is scored once
    assert lens.total.rows == len(readings) - twice
    profile = plan_run(model, task, "continuation", analysis="profile")
    assert [row.analysis for row in profile.rows] == ["ablation", "lens"]
    swept = plan_run(model, task, "continuation", analysis="profile", exhaustive=True)
    assert swept.total.token_passes < profile.total.token_passes
    assert profile.notes[0].startswith("At most")


@pytest.mark.long
def test_a_transplant_does_what_was_planned_where_there_is_a_gap():
    whole = small_model(LAYOUT)
    broken = silence_parts(whole, (1, "attn_out"))
    task = small_task("retrieval")
    asked: dict[str, Any] = {"analysis": "transplant", "layers": [1, 2]}
    plan = plan_run(broken, task, "continuation", **asked)
    found = lw.transplant(broken, whole, task, layers=[1, 2], progress=False)
    assert found.gaps()["found"].all()
    assert plan.total.token_passes == n_token_passes(found)
    own = sum(4 * weight.numel() for weight in whole.parameters())
    assert plan.weight_bytes == 2 * own
    by_head = plan_run(broken, task, "generate", site="z", **asked)
    heads = [w.W_Q.numel() + w.W_O.numel() for w in (block.attn for block in whole.blocks)]
    assert by_head.weight_bytes - 2 * own >= 4 * 2 * heads[1]
    assert plan_run(broken, task, "continuation").weight_bytes == own
    assert any("every task to have a gap" in note for note in plan.notes)
    with pytest.raises(UserError, match="which only the plan of 'ablation' has"):
        plan_run(broken, task, analysis="transplant", kind="zero")


@pytest.mark.long
def test_what_a_profile_adds_is_planned_or_said_to_be_left_out():
    model = tiny_model("llama")
    task = with_preferred_answers(model, word_task(15))
    bare = plan_run(model, task, "continuation", analysis="profile")
    more = plan_run(
        model, task, "continuation", analysis="profile", also=["attribution", "similarity", "paths"]
    )
    added = [row for row in more.rows if row.analysis in ("attribution", "similarity")]
    assert [row.analysis for row in added] == ["attribution", "similarity"]
    similar = lw.similarity(model, task, "continuation", progress=False)
    assert all(row.seconds is not None and row.seconds > 0 for row in more.rows)
    assert added[1].cost.requests == len(similar.similarity) // model.cfg.n_layers
    assert more.total.token_passes == bare.total.token_passes + sum(
        row.cost.token_passes for row in added
    )
    assert "Not in this plan, and not in its time: paths." in more.notes
    assert not any("Not in this plan" in note for note in bare.notes)


def test_additions_are_those_of_a_profile(working_folder):
    command = ["plan", model_folder(), "--task", "good.jsonl", "--also"]
    says = "'also' was given, which only the plan of 'profile' has"
    assert_command_refused(*command, "heads", says=says, unchanged=working_folder)
    says = "Unknown addition to a profile 'head'. Did you mean 'heads'?"
    assert_command_refused(
        *command, "head", "--analysis", "profile", says=says, unchanged=working_folder
    )
    said = run_cleanly(*command, "all", "--analysis", "profile", "--protocol", "continuation")
    assert "similarity" in said
    assert "Not in this plan, and not in its time: head-scores, removal, estimates, paths." in said


def test_a_model_without_weights_is_planned_without_time(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    task = word_task(4)
    whole = plan_run(folder, task, ["letter", "generate"])
    assert whole.seconds is not None
    bare = plan_run(folder, task, ["letter", "generate"], untimed=True)
    (folder / "model.safetensors").unlink()
    plan = plan_run(folder, task, ["letter", "generate"])
    (told,) = [note for note in plan.notes if note.startswith("No time")]
    assert told.endswith("since the model's weights are not on this machine.")
    for one in (bare, plan):
        assert one.total.prompt_token_passes == whole.total.prompt_token_passes
        assert one.seconds is None
        assert str(one).count("?") == 3
    assert any(note.endswith("since no sample is run (untimed).") for note in bare.notes)


@pytest.mark.long(but=["hub-hugging-face", "two stacks-auto"])
@pytest.mark.parametrize(
    ("kind", "backend"), [("gguf", "auto"), ("hub", "hugging-face"), ("two stacks", "auto")]
)
def test_weights_on_this_machine_are_timed_whatever_the_model_is_called(
    kind, backend, monkeypatch, tmp_path
):
    name = "owner/name"
    if kind == "gguf":
        name = str(tmp_path / "tiny.gguf")
        write_gguf(name)
    else:
        folder = two_stacks("t5") if kind == "two stacks" else tiny_folder(tmp_path, "llama")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    loaded, real = [], planning.load_model
    monkeypatch.setattr(
        planning,
        "load_model",
        lambda name, **how: loaded.append(how["backend"]) or real(name, **how),
    )
    plan = plan_run(name, word_task(2), "letter", backend=backend)
    assert plan.seconds is not None, plan.notes
    assert loaded == [backend]


def test_no_time_where_weights_do_not_fit(monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda device: 1000)
    plan = plan_run(load_meta_model(model_folder()), word_task(4), "letter")
    assert plan.seconds is None
    assert any("do not fit into this machine's memory" in note for note in plan.notes)


def test_nothing_is_timed_before_a_run(monkeypatch):
    """The run is what was asked for, and no weights but the model's are made."""
    ran, real = [], Setup.sweep
    monkeypatch.setattr(Setup, "sweep", lambda *args: ran.append(len(args[2])) or real(*args))
    model = tiny_model("llama")
    task = word_task(4)
    lw.ablate(model, task, "letter", progress=False)
    assert ran == [4 * 3, n_blind(task) * 3]


@pytest.mark.long
def test_lengths_of_texts_are_tried_where_they_matter():
    model = tiny_model("llama")
    long = word_task(6, generate=lw.load_task("word-problems").generate)
    short = word_task(6, "short")
    plan = plan_run(model, [long, short], ["letter", "generate"])
    expected = {row.task: row.cost for row in plan.rows if row.protocol == "generate"}
    # Items intact, without layers and without each of three; under other questions intact alone.
    n_texts = 6 * 5 + n_blind(short)
    assert expected["words"].text_rows != n_texts * (long.generate.max_tokens / 2 - 1)
    assert expected["short"].text_rows == n_texts * (4 / 2 - 1)


def test_the_table_has_a_line_for_each_task_and_protocol(working_folder):
    said = run_cleanly("plan", model_folder(), "--task", "good.jsonl", "--limit", 3)
    lines = [line.split() for line in said.splitlines()]
    assert [line[:3] for line in lines[1:4]] == [
        ["ablation", "good", protocol] for protocol in ("letter", "continuation", "generate")
    ]
    n_asked = 3 + n_blind(load_task("good.jsonl", limit=3))
    assert lines[4][:2] == ["total", str(n_asked * (3 + 3 + 1))]
    assert "Memory budget:" in said


@pytest.mark.long
def test_planned_and_actual_are_told_and_kept(working_folder):
    task = ["--task", "good.jsonl", "--protocol", "continuation"]
    for command in ("ablate", "lens"):
        said = run_cleanly(command, model_folder(), *task, "--out", command)
        lines = said.splitlines()
        assert re.fullmatch(r"Took [\d.]+ s\.", lines[0])
        work = json.loads(Path(command, "run.json").read_text())["work"]
        assert (work_line(work) in lines) == (command == "ablate")
    assert work_line(work) is None


@pytest.mark.long
def test_the_reference_makes_the_token_passes_of_brute_force(working_folder):
    task = ["--task", "good.jsonl", "--protocol", "letter", "--method", "reference"]
    said = run_cleanly("ablate", model_folder(), *task)
    (line,) = [line for line in said.splitlines() if line.startswith("Token-passes planned")]
    planned, made = re.findall(r"[\d,]+(?=[;.]$|;)", line)
    assert planned == made


def test_planned_and_actual_in_one_line():
    one = {"seconds": 9.5, "planned_token_passes": 10, "token_passes": 12}
    lens = {"seconds": 3.0, "planned_token_passes": 5, "left_out": 0}
    assert work_line([one, one, lens]) == "Token-passes planned: 20; made 24."
    assert work_line([lens]) is None
    assert work_line([{"seconds": 1.0}]) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (90, "1.5 min"), (600, "10 min"),
     (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_seconds_in_words(seconds, words):
    assert seconds_in_words(seconds) == words


MODELS = {"decoder": lambda: tiny_model("llama"), "two stacks": lambda: tiny_seq2seq("t5")}
FLOP, STEP, TEXT_FLOP = 1e-8, 1e-2, 4e-8


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Sweeps that take so long as their work does at known speeds."""
    spent, real = [], Setup.sweep

    def swept(setup, interventions, requests, method="engine"):
        found = real(setup, interventions, requests, method)
        lengths = {"words": text_lengths(found, requests)}
        cost = Setup.cost(replace(setup, lengths=lengths), word_task(), interventions, requests)
        seconds = FLOP * cost.prompt_flop + STEP * cost.steps + TEXT_FLOP * cost.text_flop
        spent.append(seconds)
        return replace(found, stats=replace(found.stats, seconds=seconds))

    monkeypatch.setattr(Setup, "sweep", swept)
    return spent


@pytest.mark.long
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


@pytest.mark.long
def test_a_sample_takes_about_as_long_as_it_should(clock):
    plan = plan_run(tiny_model("llama"), word_task(400), "letter")
    assert plan.seconds is not None
    assert plan.seconds > 5 * timing.SECONDS
    assert timing.SECONDS / 2 <= sum(clock) <= 3 * timing.SECONDS


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("decoder", "generate"), ("two stacks", "letter"),
        *in_long_runs(("decoder", "letter"), ("two stacks", "generate")),
    ],
)  # fmt: skip
def test_a_run_takes_about_as_long_as_planned(kind, protocol, monkeypatch):
    """In seconds of the processor, so that other work on the machine is not in them."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr("layerwise.sweep.run.time", clock)
    model, task = MODELS[kind](), word_task(60)
    plan = plan_run(model, task, protocol)
    assert plan.seconds is not None
    (work,) = lw.ablate(model, task, protocol, progress=False).facts.work
    assert plan.seconds / 4 < work["seconds"] < plan.seconds * 4


def test_lengths_in_a_sweep():
    first: list[Outcome] = [Generated((1, 2, 3, 4), ""), Generated((5, 6), "")]
    changed: list[Outcome] = [Generated((1, 2, 9, 9, 9, 9), ""), Generated((5, 6), "")]
    found = text_lengths(Sweep([first, changed], SweepStats()), [Generate((1,), 8)] * 2)
    assert (found.intact, found.changed, found.agreed) == (6 / 16, 8 / 16, 4 / 8)


USUAL = 2**26
JOBS = {
    "ablation": lambda setup: Ablation(
        setup, (AblationSpec.for_model(setup.model, "skip", None, tuple(range(8))),)
    ),
    "patching": lambda setup: Patching(setup, 1, ("attn_out",)),
    "removal": lambda setup: Removal(setup, 1, ("greedy",), 0.5),
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "share", "n_lines"),
    [("ablation", 1, 0), *((name, 1 / 1024, 1) for name in JOBS)],
)
def test_a_small_budget_is_told_of_once_and_the_usual_one_not(monkeypatch, name, share, n_lines):
    monkeypatch.setattr(dry_sweeps, "default_memory_budget", lambda device: USUAL)
    lines: list[str] = []
    setup = prepare(
        load_model("organism-decoder"), "organism-lookup", "continuation", limit=2,
        memory_budget=USUAL,
    )  # fmt: skip
    job = JOBS[name](replace(setup, memory_budget=int(USUAL * share)))
    job.run(CheckpointStore(), {}, LineMeter(lines.append))
    assert len(lines) == n_lines
    if lines:
        assert "with a memory budget of 0 MiB this takes about" in lines[0]
        assert "times the work that it takes with 64 MiB" in lines[0]
