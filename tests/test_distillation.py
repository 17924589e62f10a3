"""A student that learns what its teacher can do, what stays as it is, resuming, and bad input."""

from __future__ import annotations

import copy
import functools
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import layerwise as lw
from layerwise.analyses.distillation import job
from layerwise.analyses.distillation.training.examples import (
    Example,
    questions_of_tasks,
    teacher_answers,
)
from layerwise.analyses.distillation.training.loop import Trainer, Training
from layerwise.analyses.distillation.training.losses import Objective
from layerwise.analyses.distillation.training.student import (
    Student,
    Teacher,
    matching_layers,
)
from layerwise.analyses.shared.texts import Texts
from layerwise.errors import MadeAgainWarning, UserError
from layerwise.models import load_model, original_tokenizer
from layerwise.models.names.sources import find_source
from layerwise.models.own_files import model_folder
from layerwise.results import DistillationResult
from layerwise.runs.folder import RunFolder
from layerwise.runs.setup import prepare
from layerwise.tasks.task import take
from tests.analysis import documented_columns, edited_folder, word_task, write_jsonl
from tests.commands import assert_refused, contents, run
from tests.models.tiny import session_folder, tiny_folder, tiny_model, tiny_tokenizer

QUIET: Any = {"progress": False}


def words(n_items: int = 40, limit: int = 6) -> lw.Task:
    """A task of which a few items are measured, and the others are left to train on."""
    return take(word_task(n_items), limit)


@functools.cache
def dead_layer() -> Path:
    """The trained organism without what its third layer adds: it cannot look anything up."""
    copied = session_folder() / "organism-without-layer-3"
    shutil.copytree(find_source("organism-decoder").folder, copied)

    def edit(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if ".layers.3." in name and ("o_proj" in name or "down_proj" in name):
                weights[name] = torch.zeros_like(weights[name])

    return edited_folder(copied, edit)


def run_tiny(out: Path, **given: Any) -> DistillationResult:
    """Some steps between two random models; what they say means nothing."""
    usual = {"protocols": "continuation", "steps": 6, "batch": 4, "n_texts": 30, "rate": 1e-3}
    teacher, student = tiny_model("llama", seed=1), tiny_model("llama")
    return lw.distill(teacher, student, words(), out=out, **QUIET, **(usual | given))


def make_trainer(
    teacher: Any, student: Any, objective: Objective, budget: int = 2**30, **of: Any
) -> Trainer:
    examples = [
        Example((5, 9, 30, 7), 2, 2, 2), Example((6, 40, 41), 2, 2, 1),
        Example((11, 12, 13, 14, 15, 16), 3, 3, 3),
    ]  # fmt: skip
    trained = Student.from_model(student, model_folder(student), of.get("layers"), of.get("rank"),
                         of.get("seed", 0))  # fmt: skip
    n_encoder = getattr(student.cfg, "n_encoder_layers", 0)
    stacks = [n for n in (n_encoder, student.cfg.n_layers - n_encoder) if n]
    wanted = matching_layers(stacks, stacks) if objective.hidden else ()
    layers = None if of.get("layers") is None else tuple(of["layers"])
    texts = Texts(tuple(examples), tuple(examples), "made up")
    training = Training(
        texts, objective, layers, of.get("rank"), batch=3, steps=4, rate=1e-3,
        seed=of.get("seed", 0), memory_budget=budget,
    )  # fmt: skip
    return Trainer(Teacher(teacher, wanted), trained, original_tokenizer(student), training)


def plain_loss(trainer: Trainer, teacher: Any) -> torch.Tensor:
    """The loss of all texts, each by a forward of its own, with torch's divergence."""
    original, total, entropy, n = trainer.student.original, 0.0, 0.0, 0
    prefix = trainer.student.prefix
    for example in trainer.training.examples.train:
        if prefix is None:
            ids, first = torch.tensor([example.tokens]), example.n_prompt - 1
            expected, logits = teacher(ids)[0], original(input_ids=ids, use_cache=False).logits[0]
        else:
            ids, first = torch.tensor([example.prompt]), len(prefix) - 1
            said = torch.tensor([[*prefix, *example.targets]])
            expected = teacher(ids, said)[0]
            logits = original(input_ids=ids, decoder_input_ids=said, use_cache=False).logits[0]
        at = slice(first, first + len(example.targets))
        log_q = logits[at].log_softmax(-1)
        total += torch.nn.functional.kl_div(log_q, expected[at].softmax(-1), reduction="sum")
        entropy -= log_q[range(len(example.targets)), list(example.targets)].sum()
        n += len(example.targets)
    return total / n + trainer.training.objective.cross_entropy * entropy / n


MODELS = {
    "llama": lambda: (tiny_model("llama", seed=1), tiny_model("llama")),
    "gpt2": lambda: (tiny_model("gpt2", seed=1), tiny_model("gpt2")),
    "encoder-decoder": lambda: (
        load_model("organism-seq2seq"), load_model("organism-seq2seq-1")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "budget"), [("llama", 1), ("gpt2", 2**30), ("encoder-decoder", 1)]
)
def test_gradients_are_those_of_plain_forwards_of_each_text(kind, budget):
    """Also if no two texts fit into memory together."""
    teacher, student = MODELS[kind]()
    trainer = make_trainer(teacher, student, Objective(cross_entropy=0.5), budget)
    row = trainer._backward(trainer.training.examples.train, [False] * 3)
    found = [weight.grad.clone() for weight in trainer.weights if weight.grad is not None]
    trainer.optimizer.zero_grad()
    expected = plain_loss(trainer, teacher)
    assert row["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert row["n_tokens"] == 6
    expected.backward()
    plain = [weight.grad for weight in trainer.weights if weight.grad is not None]
    scale = max(float(one.abs().max()) for one in plain)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * scale, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "encoder-decoder"])
def test_streams_are_compared_layer_by_layer_where_the_models_have_them(kind):
    """Of a model and itself they are the same; of another student they are those of its hooks."""
    teacher, student = MODELS[kind]()
    trainer = make_trainer(student, student, Objective(hidden=1.0))
    assert trainer._backward(trainer.training.examples.train, [False] * 3)["hidden"] < 1e-9
    trainer = make_trainer(teacher, student, Objective(hidden=1.0))
    batch = trainer.student.batch(trainer.training.examples.train[:1])
    _, theirs = Teacher(student, trainer.teacher.layers)(batch)
    _, mine = trainer.student(batch, streams=True)
    assert len(theirs) == len(mine) == student.cfg.n_layers
    for one, other in zip(theirs, mine, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert trainer._backward(trainer.training.examples.train, [False] * 3)["hidden"] > 0.1


def test_answers_that_the_student_wrote_have_no_cross_entropy():
    teacher, student = MODELS["llama"]()
    trainer = make_trainer(teacher, student, Objective(cross_entropy=1.0))
    one = trainer._backward(trainer.training.examples.train, [True, False, True])["cross_entropy"]
    alone = trainer._backward(trainer.training.examples.train[1:2], [False])["cross_entropy"]
    assert one == pytest.approx(alone, rel=1e-5)
    assert trainer._backward(trainer.training.examples.train, [True] * 3)["cross_entropy"] is None


def test_the_curve_is_of_held_out_texts_of_every_task():
    """Texts lie task by task; the first of many would leave out what is learned last."""
    trainer = make_trainer(*MODELS["llama"](), Objective())
    early, late, _ = trainer.training.examples.train
    held_out = (*[early] * 60, *[late] * 60)
    texts = replace(trainer.training.examples, held_out=held_out)
    chosen = replace(trainer.training, examples=texts).curve_examples()
    assert len(chosen) == 32
    assert 5 <= chosen.count(early) <= 27


@pytest.fixture(scope="module")
def distilled_student(tmp_path_factory):
    """A student without a layer, taught by the whole model, and nothing but that layer trained."""
    out = tmp_path_factory.mktemp("learned") / "out"
    result = lw.distill(
        load_model("organism-decoder"), load_model(dead_layer()),
        "organism-lookup", "continuation", out=out, layers=[3], limit=24, steps=24, batch=12,
        rate=8e-3, n_texts=200, **QUIET,
    )  # fmt: skip
    return result, out


@pytest.mark.long
def test_a_student_learns_what_its_teacher_can_do(distilled_student):
    result, _ = distilled_student
    (lookup,) = result.gains().to_dict("records")
    assert lookup["acc_teacher"] > 0.95
    assert lookup["acc_student"] < 0.5
    assert not lookup["signal_student"]
    assert lookup["improved"]
    assert lookup["closed_low"] > 0.2
    assert lookup["gain_low"] > 0
    curve = result.distillation_curve
    measured = curve["held_out_kl"].dropna()
    assert measured.iloc[-1] < measured.iloc[0] / 2
    assert list(curve["step"]) == list(range(25))
    for name in ("distillation", "distillation_curve", "distillation_gains"):
        table = result.gains() if name.endswith("gains") else getattr(result, name)
        assert list(table.columns) == documented_columns(f"{name}.parquet")


def test_layers_that_are_not_trained_stay_bit_by_bit(distilled_student):
    _, out = distilled_student
    before, after = (load_file(f / "model.safetensors") for f in (dead_layer(), out))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        same = torch.equal(weight.float(), after[name])
        assert same != (".layers.3." in name), name


def test_the_folder_is_an_ordinary_model_with_a_card(distilled_student):
    result, out = distilled_student
    again = load_model(out)
    assert again.cfg.n_layers == 8
    assert load_model(str(out)).W_E.dtype == torch.float32
    card = (out / "README.md").read_text("utf-8")
    for told in (result.facts.settings["teacher_hash"], result.facts.model.hash,
                 lw.models.model_facts(again).hash, "the weights of layer 3", "seed 0",
                 "KL(teacher, student) at temperature 1", "organism-lookup | continuation | 24",
                 "better", "## Limits"):  # fmt: skip
        assert told in card, told
    assert not (out / "training.json").exists()
    assert lw.verify(out / "compared").ok
    assert isinstance(lw.load(out / "compared")[0], DistillationResult)
    assert "organism-lookup" in result._repr_html_()


def test_the_student_that_was_given_is_not_changed(distilled_student):
    student = load_model(dead_layer())
    assert lw.models.model_facts(student).hash == distilled_student[0].facts.model.hash


def test_nothing_that_is_measured_is_trained_on():
    """Neither an item nor a fact of one, in any of the tasks."""
    model = tiny_model("llama", bos=True, max_position_embeddings=2048)
    setup = prepare(model, ["facts", "facts-open-book"], "continuation", limit=30)
    measured = [item for task in setup.tasks for item in task.items]
    facts = {item.cluster for item in measured} - {None}
    assert facts
    found = [one.item for group in questions_of_tasks(setup, 100) for one in group]
    assert len(found) >= 100
    assert not {(one.context, one.question) for one in found} & {
        (one.context, one.question) for one in measured
    }
    assert not {one.cluster for one in found} & facts


def test_a_task_that_goes_by_the_name_of_a_suite_is_trained_on_by_its_own_items():
    setup = prepare(tiny_model("llama"), replace(words(), name="facts"), "continuation")
    found = [one.item for group in questions_of_tasks(setup, 100) for one in group]
    assert len(found) > 20
    assert set(found) <= set(words().unasked)


@pytest.mark.parametrize(("family", "rank"), [("gpt2", 2), ("mixtral", 2)])
def test_merged_adapters_say_what_they_said_beside_the_weights(family, rank):
    teacher, student = tiny_model(family, seed=1), tiny_model(family)
    trainer = make_trainer(teacher, student, Objective(), layers=[0, 2], rank=rank)
    trained = trainer.student
    assert all(".lora_" in name for name in trained.trained)
    batch = trained.batch(trainer.training.examples.train)
    with torch.no_grad():
        at_first = trained(batch)[0]
    for _ in range(3):
        trainer.step()
    with torch.no_grad():
        beside = trained(batch)[0]
    trained.adapters.merge_and_unload()
    assert not [name for name, _ in trained.original.named_parameters() if "lora" in name]
    with torch.no_grad():
        merged = trained(batch)[0]
    torch.testing.assert_close(merged, beside, atol=1e-4, rtol=1e-4)
    assert (merged - at_first).abs().max() > 1e-3


@pytest.mark.long
def test_adapters_leave_all_but_the_chosen_layers_as_they_are(tmp_path):
    run_tiny(tmp_path / "out", rank=2, layers=[1])
    before = load_file(model_folder(tiny_model("llama")) / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed)
    assert not any("norm" in name for name in changed)


OPTIONS: dict[str, dict[str, Any]] = {
    "all weights": {"on_policy": 0.5, "cross_entropy": 0.3},
    "adapters": {"rank": 2, "hidden": 0.1, "answers": "teacher", "protocols": "generate"},
}


class KilledError(BaseException):
    """Error that ends a process in the middle of its work."""


@pytest.mark.long(but=["adapters"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, options):
    given = OPTIONS[options]
    whole = run_tiny(tmp_path / "whole", **given)
    write, kept = RunFolder.write_bytes, []

    def killed(self: RunFolder, name: str, content: bytes) -> None:
        write(self, name, content)
        kept.append(content)
        if len(kept) in (2, 4):
            raise KilledError

    monkeypatch.setattr(RunFolder, "write_bytes", killed)
    for _ in range(2):
        with pytest.raises(KilledError):
            run_tiny(tmp_path / "resumed", **given)
        assert not (tmp_path / "resumed" / "config.json").exists()
    resumed = run_tiny(tmp_path / "resumed", **given)
    assert len(kept) == 6  # no step was made twice
    for name in ("model.safetensors", "README.md", "config.json"):
        one, other = ((tmp_path / f / name).read_bytes() for f in ("whole", "resumed"))
        assert one == other, name
    for name in ("distillation", "distillation_curve"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(resumed, name))
    assert not list((tmp_path / "resumed").rglob("*.part"))
    assert {path.name for path in (tmp_path / "resumed").iterdir()} >= {"compared", "README.md"}


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory):
    """A run with the usual options that nothing interrupts, and its folder; do not change it."""
    out = tmp_path_factory.mktemp("tiny") / "whole"
    return run_tiny(out), out


@pytest.mark.long
def test_a_damaged_state_counts_as_none(uninterrupted_run, tmp_path, monkeypatch):
    write = RunFolder.write_bytes

    def damaged(self: RunFolder, name: str, content: bytes) -> None:
        write(self, name, content)
        path = self._part(name)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        raise KilledError

    monkeypatch.setattr(RunFolder, "write_bytes", damaged)
    with pytest.raises(KilledError):
        run_tiny(tmp_path / "out")
    monkeypatch.setattr(RunFolder, "write_bytes", write)
    run_tiny(tmp_path / "out")
    one, other = (
        (f / "model.safetensors").read_bytes() for f in (uninterrupted_run[1], tmp_path / "out")
    )
    assert one == other


@pytest.mark.long
def test_a_seed_repeats_a_training_and_another_seed_does_not():
    teacher, student = MODELS["llama"]()
    ended = []
    for seed in (3, 3, 4):
        trainer = make_trainer(teacher, student, Objective(on_policy=0.5), rank=2, seed=seed)
        for _ in range(trainer.training.steps):
            trainer.step()
        ended.append([weight.detach() for weight in trainer.weights])
    same = [all(map(torch.equal, ended[0], other)) for other in ended[1:]]
    assert same == [True, False]


@pytest.mark.long
def test_a_finished_distillation_is_read_again_and_its_card_written_anew(
    uninterrupted_run, tmp_path
):
    first, out = uninterrupted_run[0], shutil.copytree(uninterrupted_run[1], tmp_path / "out")
    before = contents(out)
    (out / "README.md").unlink()
    pd.testing.assert_frame_equal(run_tiny(out).distillation, first.distillation)
    assert contents(out) == before
    weights = bytearray(before["model.safetensors"] or b"")
    weights[-1] ^= 1
    (out / "model.safetensors").write_bytes(weights)
    with pytest.warns(MadeAgainWarning, match=r"model\.safetensors is changed or damaged"):
        run_tiny(out)
    assert contents(out).keys() == before.keys()
    assert (out / "model.safetensors").read_bytes() == before["model.safetensors"]
    with pytest.raises(UserError, match=r"other settings \(rate was 0\.001 and is now 0\.002\)"):
        run_tiny(out, rate=2e-3)


def test_the_teachers_answers_are_those_it_gives(tmp_path):
    teacher = tiny_model("llama", seed=1)
    setup = prepare(teacher, words(), ("letter", "continuation", "generate"))
    every = [one for group in questions_of_tasks(setup, 30) for one in group]
    found = teacher_answers(setup, setup, every)
    tokenizer = original_tokenizer(teacher)
    for place, question in enumerate(every[:9]):
        example = found[place]
        if question.protocol != "generate":
            options = [one.request for one in question.requests]
            scores = [float(-cross_entropy(teacher, one.context, one.continuation))
                      for one in options]  # fmt: skip
            best = options[scores.index(max(scores))]
            assert example.tokens == best.context + best.continuation
            continue
        (one,) = question.requests
        wrote = []
        while len(wrote) < question.task.generate.max_tokens:
            logits = teacher(torch.tensor([[*one.request.context, *wrote]]))[0, -1]
            wrote.append(int(logits.argmax()))
            text = tokenizer.decode(wrote)
            ended = wrote[-1] == tokenizer.eos_token_id
            if ended or any(stop in text for stop in question.task.generate.stop):
                break
        assert example.tokens == (*one.request.context, *wrote)


@torch.no_grad()
def cross_entropy(model: Any, context: tuple[int, ...], said: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.tensor([context + said]))[0, len(context) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(said), reduction="sum")


@pytest.mark.long
def test_texts_of_a_file_are_trained_on(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"the key {i} opens the door {i + 1} of two" for i in range(20)))
    result = run_tiny(tmp_path / "out", text=path, on_policy=0.5)
    assert result.facts.settings["text"] == str(path)
    assert result.facts.settings["texts_trained_on"] == 16
    curve = result.distillation_curve.iloc[1:]
    assert 0 < curve["n_own"].sum() < curve["n_texts"].sum()
    assert "answers" not in (tmp_path / "out" / "README.md").read_text().split("## Held")[0].split(
        "| loss |")[1].splitlines()[0]  # fmt: skip


@pytest.mark.long
def test_an_encoder_decoder_is_distilled(tmp_path):
    result = lw.distill(
        load_model("organism-seq2seq"), load_model("organism-seq2seq-1"), "organism-lookup",
        "continuation", out=tmp_path / "out", layers=["encoder.3", "decoder.0"], limit=2, steps=2,
        batch=4, n_texts=20, on_policy=0.5, **QUIET,
    )  # fmt: skip
    assert load_model(tmp_path / "out").cfg.n_layers == 8
    before = load_file(find_source("organism-seq2seq-1").folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name].float())}
    assert {".".join(name.split(".")[:3]) for name in changed} == {
        "encoder.block.3", "decoder.block.0"}  # fmt: skip
    assert len(result.gains()) == 1


def bad(out: Path, says: str, **given: Any) -> None:
    """A call that is refused in one sentence, and leaves nothing."""
    usual: dict[str, Any] = {"teacher": tiny_model("llama", seed=1), "student": tiny_model("llama"),
                             "tasks": words(), "protocols": "continuation"}  # fmt: skip
    every = usual | given
    models = [every.pop(name) for name in ("teacher", "student", "tasks", "protocols")]
    with pytest.raises(UserError) as caught:
        lw.distill(*models, out=out, **QUIET, **every)
    assert says in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.rglob("*.safetensors"))


def test_what_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"
    bad(out, "Layer 7 is out of range", layers=[7])
    bad(out, "temperature is 0", temperature=0.0)
    bad(out, "Unknown divergence 'sideways'", divergence="sideways")
    bad(out, "Unknown kind of answers 'mine'", answers="mine")
    bad(out, "in 0 steps of 8 texts", steps=0)
    bad(out, "at rate 2", rate=2.0)
    bad(out, "rank of the adapters is 0", rank=0)
    bad(out, "no questions to train a student on", tasks=word_task(4))
    bad(out, "At most 4 texts were asked for", n_texts=4)
    bad(out, "Cannot read", text=tmp_path / "missing.txt")
    (tmp_path / "short.txt").write_text("the key opens")
    bad(out, "Only 1 text to train a student on came from", text=tmp_path / "short.txt")
    bad(out, "the width of the residual stream", hidden=1.0,
        teacher=tiny_model("llama", hidden_size=32))  # fmt: skip
    bad(out, "the kind of model is an encoder-decoder in the teacher",
        teacher=load_model("organism-seq2seq"))  # fmt: skip
    other_words = tiny_folder(tmp_path, "llama")
    tiny_tokenizer(vocab_size=290).save_pretrained(other_words)
    bad(out, "the token", student=load_model(other_words))
    bad(out, "The model has no Hugging Face original", teacher=load_model("wired-decoder"),
        student=load_model("wired-decoder"), tasks="wired-lookup")  # fmt: skip
    changed = copy.deepcopy(tiny_model("llama"))
    changed.W_E.data[0] += 1
    bad(out, "were changed after it was loaded", student=changed)
    monkeypatch.setitem(sys.modules, "peft", None)
    bad(out, "pip install 'layerwise[distill]'", rank=2)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    bad(out, "is not empty")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_training_that_diverges_or_has_no_memory_ends_in_a_sentence(tmp_path, monkeypatch):
    def backward(self: Trainer, *_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", backward)
        bad(tmp_path / "out", "no memory for step 1 of the distillation, of 8 texts")
    real = Trainer._backward

    def nowhere(self: Trainer, *given: Any) -> Any:
        return real(self, *given) | {"loss": float("nan")}

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", nowhere)
        bad(tmp_path / "out", "diverged at step 1 of 200")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", lambda *_: [][0])
        with pytest.raises(IndexError):  # what is no lack of memory is not taken for one
            run_tiny(tmp_path / "new")


def test_a_full_disk_loses_nothing(uninterrupted_run, tmp_path, monkeypatch):
    import errno

    def full(self: Student, place: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Student, "save", full)
        with pytest.raises(UserError, match="No space left to write"):
            run_tiny(tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    steps: list[int] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: (steps.append(1), step(self)))
    found = run_tiny(tmp_path / "out")
    assert not steps
    pd.testing.assert_frame_equal(found.distillation, uninterrupted_run[0].distillation)


QUICK: dict[str, Any] = {"steps": 3, "batch": 4, "n_texts": 20, "rate": 1e-3, "progress": False}


@pytest.fixture(scope="module")
def pruned_folders(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model's folder, and that of it without its second layer."""
    place = tmp_path_factory.mktemp("pruned")
    folder = tiny_folder(place, "llama", num_hidden_layers=4)
    lw.prune_model(load_model(folder), [1], place / "short", word_task(2), "continuation")
    return folder, place / "short"


@pytest.mark.long
def test_healing_is_the_distillation_from_the_original(pruned_folders, tmp_path):
    folder, short = pruned_folders
    before = contents(short)
    healed = lw.heal(short, words(), "continuation", out=tmp_path / "healed", **QUICK)
    plain = lw.distill(
        load_model(folder), load_model(short), words(), "continuation", out=tmp_path / "plain",
        **QUICK,
    )  # fmt: skip
    pd.testing.assert_frame_equal(healed.distillation, plain.distillation)
    one, other = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("healed", "plain"))
    assert one == other
    assert contents(short) == before
    assert healed.facts.settings["removed"] == ["1"]
    assert healed.facts.settings["teacher"] == str(folder)
    card = (tmp_path / "healed" / "README.md").read_text("utf-8")
    assert f"# {str(folder)[:1]}" in card
    assert "without layer 1, healed" in card
    again = lw.heal(short, words(), "continuation", out=tmp_path / "healed", **QUICK)
    pd.testing.assert_frame_equal(again.distillation, healed.distillation)


@pytest.mark.long
def test_streams_are_compared_with_the_very_layers_that_stayed(
    pruned_folders, tmp_path, monkeypatch
):
    """Not with those of the same relative depth."""
    found, teacher = [], job.Teacher
    monkeypatch.setattr(
        job, "Teacher", lambda model, layers: found.append(layers) or teacher(model, layers)
    )
    lw.heal(pruned_folders[1], words(), "continuation", out=tmp_path / "out", hidden=1.0, **QUICK)
    assert found == [(0, 2, 3)]


def assert_healing_refused(folder: Path, says: str, out: Path) -> None:
    with pytest.raises(UserError) as caught:
        lw.heal(folder, words(), "continuation", out=out, **QUICK)
    assert says in str(caught.value), str(caught.value)
    assert not out.exists()


def test_what_cannot_be_healed(pruned_folders, tmp_path):
    folder, short = pruned_folders
    out = tmp_path / "out"
    assert_healing_refused(folder, "holds no model that layerwise wrote without some layers", out)
    assert_healing_refused(tmp_path / "nowhere", "holds no model that layerwise wrote", out)
    changed = tmp_path / "changed"
    shutil.copytree(short, changed)
    weights = load_file(changed / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert_healing_refused(
        changed, "is not as it was written (model.safetensors is changed or missing)", out
    )
    ends = run("heal", short, "--out", out, "--temperature", 0)
    assert_refused(ends, "The temperature is 0; expected a number above 0")


@pytest.mark.long
def test_an_original_that_is_elsewhere_or_another_by_now_is_told(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    short, moved = tmp_path / "short", tmp_path / "elsewhere"
    lw.prune_model(load_model(folder), [1], short, word_task(2), "continuation")
    folder.rename(moved)
    assert_healing_refused(
        short, f"is not at '{folder}' any more: expected its folder", tmp_path / "out"
    )
    ends = run("heal", short, "--original", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert_refused(ends, "There is no file or folder")
    ends = run("heal", short, "--original", short, "--out", tmp_path / "out")
    assert_refused(ends, "is not the model that")
    healed = lw.heal(
        short, words(), "continuation", out=tmp_path / "healed", original=moved, **QUICK
    )
    assert healed.facts.settings["teacher"] == str(moved)
    moved.rename(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert_healing_refused(short, "is not the model that", tmp_path / "out")


@pytest.mark.long
def test_a_model_is_healed_at_the_command_line(pruned_folders, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(f"the key {i} opens the door {i + 1} of two" for i in range(20)))
    words_file = tmp_path / "words.jsonl"
    write_jsonl(words_file, word_task(4).items)
    ended = run("heal", pruned_folders[1], "--task", words_file, "--fewshot", 0, "--protocol",
                "continuation", "--text", file, "--steps", 2, "--batch", 2, "--out",
                tmp_path / "healed")  # fmt: skip
    assert ended.code == 0, ended
    assert f"Model: {tmp_path / 'healed'}" in ended.out
