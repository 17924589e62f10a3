"""Plans of distillation and healing: tokens, memory and time against those of real trainings."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import layerwise as lw
from layerwise.analyses.distillation import planned as planned_module
from layerwise.analyses.distillation.planned import TrainingWork
from layerwise.analyses.distillation.training.examples import Example
from layerwise.analyses.distillation.training.loop import Trainer, Training
from layerwise.analyses.distillation.training.losses import Objective
from layerwise.analyses.distillation.training.memory import MemoryCounter
from layerwise.analyses.distillation.training.student import Student, Teacher
from layerwise.analyses.shared.texts import Texts
from layerwise.errors import UserError
from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import Model, model_blocks
from layerwise.models.meta_model import load_meta_model
from layerwise.models.own_files import model_folder
from layerwise.planning.plan import plan_run
from tests.analysis import word_task
from tests.cases import in_long_runs
from tests.commands import run_cleanly
from tests.models.decoder.tiny import tiny_original
from tests.models.seq2seq.tiny import tiny_folder as seq2seq_folder
from tests.models.tiny import session_folder, tiny_folder, tiny_model, tiny_tokenizer

FAMILIES: dict[str, Callable[[], Model]] = {
    "llama": lambda: tiny_model("llama"),
    "gpt2": lambda: tiny_model("gpt2"),
    "t5": lambda: load_model(seq2seq_folder("t5")),
}
MEMORY, LITTLE = 2**30, 2 * 8 * 4 * 304 * 30
# How far a plan's memory may be from what is taken.
ABOUT = 0.02


def some_examples(*sizes: tuple[int, int, int]) -> tuple[Example, ...]:
    """Texts of so many tokens, of which some are read, and so many may be written."""
    rng = np.random.default_rng(0)
    return tuple(
        Example(tuple(rng.integers(3, 48, n).tolist()), read, read, most) for n, read, most in sizes
    )


MIXED = some_examples((9, 4, 5), (14, 9, 3), (30, 20, 8), (8, 3, 6), (12, 9, 3), (21, 8, 9))


class Reader:
    """Counts the tokens that blocks of a model are given, with and without gradients."""

    def __init__(self, blocks: list[Any]) -> None:
        self.n_tokens = {True: 0, False: 0}
        for block in blocks:
            block.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        stream = inputs[0] if inputs else named["hidden_states"]
        self.n_tokens[torch.is_grad_enabled()] += stream.shape[0] * stream.shape[1]


def plan_trainer(work: TrainingWork) -> tuple[Trainer, Reader, Reader]:
    """The training of a plan, and what its teacher and student read."""
    training = work.training
    files = model_folder(work.student)
    student = Student.from_model(work.student, files, training.layers, training.rank, 0)
    own = Reader([student.original.get_submodule(name) for name in student.blocks])
    teacher = load_model(model_folder(work.teacher))
    read = Reader([getattr(block, "module", block) for block in model_blocks(teacher)])
    trainer = Trainer(Teacher(teacher), student, original_tokenizer(work.student), training)
    return trainer, read, own


def training_work(model: Model, **given: Any) -> TrainingWork:
    options: dict[str, Any] = {
        "layers": None, "rank": None, "batch": 4, "steps": 6, "seed": 3, "memory_budget": MEMORY,
        "rate": 1e-4, "objective": Objective(), "examples": Texts(MIXED, MIXED[:2], "texts"),
    }  # fmt: skip
    return TrainingWork(model, model, Training(**(options | given)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "memory", "on_policy"),
    [
        ("llama", MEMORY, 0.5), ("t5", LITTLE, 0.0),
        *in_long_runs(
            ("llama", MEMORY, 0.0), ("t5", LITTLE, 0.5), ("llama", LITTLE, 0.0),
            ("llama", LITTLE, 0.5),
        ),
    ],
)  # fmt: skip
def test_a_training_reads_the_tokens_that_were_planned(name, memory, on_policy):
    """Also if only two of the longest texts fit; those that it writes are between bounds."""
    work = training_work(
        FAMILIES[name](), memory_budget=memory, objective=Objective(on_policy=on_policy)
    )
    trainer, teacher, student = plan_trainer(work)
    trainer.begin()
    while trainer.done < trainer.training.steps:
        trainer.step()
    trained, besides = student.n_tokens[True], student.n_tokens[False]
    made, cost = sum(teacher.n_tokens.values()) + 3 * trained + besides, work.cost()
    if not on_policy:
        assert cost.prompt_token_passes == made
        assert cost.text_token_passes == cost.most_text_token_passes == 0
        return
    assert cost.prompt_token_passes < made <= cost.prompt_token_passes + cost.most_text_token_passes
    assert 0 < cost.text_token_passes < cost.most_text_token_passes


# What is trained, in one family; then each other way to keep weights and each other kind of model.
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("llama", {"layers": (2,)}), ("gpt2", {"rank": 4}), ("qwen 3 moe", {}),
        *in_long_runs(
            ("t5", {}), ("llama", {}), ("llama", {"rank": 4}), ("t5", {"rank": 4}), ("gpt2", {}),
            ("gpt2", {"layers": (2,)}), ("t5", {"layers": (2,)}), ("gpt-oss", {}),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_takes_the_memory_that_was_planned(name, trained, tmp_path):
    """Experts of a token depend on its values, which a plan has not."""
    if name in FAMILIES:
        model = FAMILIES[name]()
    else:
        tiny_original(name, vocab_size=304).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        model = load_model(tmp_path)
    long = some_examples(*[(60, 30, 30)] * 6)
    work = training_work(model, examples=Texts(long, long[:1], "texts"), batch=6, **trained)
    trainer, _, _ = plan_trainer(work)
    trainer.step()  # the optimizer's memory is made
    with MemoryCounter() as made:
        trainer.step()
    step = work.step_memory()
    assert step.made == pytest.approx(made.most, rel=ABOUT)
    assert step.trained == sum(4 * one.numel() for one in trainer.weights)
    assert step.copied == sum(4 * one.numel() for one in trainer.student.original.parameters())
    on_top, weights = work.memory()
    models = 2 * sum(4 * one.numel() for one in model.parameters())
    assert on_top + weights >= models + step.copied + 2 * step.trained + made.most


@pytest.mark.parametrize(
    ("name", "trained"),
    in_long_runs(("organism-decoder", {"layers": (1, 2)}), ("organism-seq2seq", {"rank": 8})),
)
def test_memory_of_a_meta_model_is_that_of_the_model(name, trained):
    """Facts of loaded models and of their names may differ."""
    models = load_model(name), load_meta_model(name)
    whole, without_weights = (training_work(one, **trained).memory() for one in models)
    assert whole == pytest.approx(without_weights, rel=0.03)


@pytest.mark.long
def test_a_distillation_is_planned_as_it_is_run(tmp_path, monkeypatch):
    """Training and questions, from meta models as from models, and about how long it takes."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr("layerwise.sweep.run.time", clock)
    monkeypatch.setattr(planned_module, "time", clock)
    monkeypatch.setattr(planned_module, "SECONDS", 0.2)
    folder, task = session_folder(), word_task(40)
    teacher, student = tiny_folder(folder, "llama", seed=1), tiny_folder(folder, "llama")
    options: dict[str, Any] = {"n_texts": 30, "batch": 4, "steps": 12, "limit": 8}
    plan = plan_run(teacher, task, "continuation", analysis="distill", student=student, **options)
    spent, step = list[float](), Trainer.step

    def timed(trainer: Trainer) -> None:
        before = time.process_time()
        step(trainer)
        spent.append(time.process_time() - before)

    monkeypatch.setattr(Trainer, "step", timed)
    result = lw.distill(
        load_model(teacher), load_model(student), task, "continuation", out=tmp_path / "out",
        progress=False, **options,
    )  # fmt: skip
    training, *asked = plan.rows
    assert [row.analysis for row in plan.rows] == ["training", "teacher", "student", "distilled"]
    work: list[Any] = list(result.facts.work)
    assert sum(row.cost.token_passes for row in asked) == sum(one["token_passes"] for one in work)
    assert training.task == f"{result.facts.settings['texts_trained_on']} texts"
    assert training.seconds is not None
    assert training.seconds / 4 < sum(spent) < 4 * training.seconds
    assert plan.weight_bytes > 5 * 4 * sum(one.numel() for one in load_model(student).parameters())
    bare = plan_run(
        load_model(teacher), task, "continuation", analysis="distill", student=student,
        untimed=True, **options,
    )  # fmt: skip
    assert bare.total == plan.total
    assert bare.seconds is None


@pytest.mark.long
def test_healing_is_planned_from_the_pruned_folder(tmp_path):
    task, original = word_task(30), tiny_folder(session_folder(), "llama", seed=1)
    lw.prune_model(load_model(original), [1], tmp_path / "pruned", task, "continuation", limit=4)
    plan = plan_run(
        tmp_path / "pruned", task, "continuation", analysis="heal", n_texts=20, limit=6, steps=5,
        rank=2, untimed=True,
    )  # fmt: skip
    passes = {row.analysis: row.cost.token_passes for row in plan.rows}
    assert passes["teacher"] > passes["student"] == passes["distilled"]
    with pytest.raises(UserError, match="holds no model that layerwise wrote without some layers"):
        plan_run(original, task, "continuation", analysis="heal")


@pytest.mark.long
def test_the_command_plans_a_distillation():
    folder = session_folder()
    printed = run_cleanly(
        "plan", tiny_folder(folder, "llama", seed=1), "--task", "facts", "--limit", 2,
        "--protocol", "continuation", "--analysis", "distill", "--student",
        tiny_folder(folder, "llama"), "--texts", 12, "--steps", 3, "--on-policy", 0.5, "--untimed",
    )  # fmt: skip
    for words in ("training", "3 steps", "A backward counts as two forwards."):
        assert words in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"analysis": "distill"}, "The plan of a distillation needs a student"),
        ({"analysis": "ablation", "student": "x"}, "which only the plan of 'distill' has"),
        ({"analysis": "distill", "student": "organism-decoder"}, "cannot learn from this teacher"),
        ({"analysis": "distill", "steps": 0, "student": ""}, "cannot be trained in 0 steps"),
    ],
)
def test_what_cannot_be_planned(options, says):
    teacher = tiny_folder(session_folder(), "llama", seed=1)
    if options.get("student") == "":
        options = options | {"student": teacher}
    with pytest.raises(UserError, match=says):
        plan_run(teacher, word_task(8), "continuation", untimed=True, **options)
